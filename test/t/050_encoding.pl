# A database whose encoding is not UTF-8: everything on the wire is UTF-8 all
# the same, names and headers included.  Bytes that are no text do no harm.

use strict;
use warnings FATAL => 'all';
use utf8;

use OutboxTest;
use Test::More;

my $broker = outbox_broker();
my $topic  = unique_topic('latin');
topic_create($broker, $topic, 1);
my $node = outbox_node('main');
$node->safe_psql('postgres', q(CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0));
outbox_install($node, 'latin', $broker);

# E'\303\244' is ä for a client that speaks UTF-8
my $utf8 = "SET client_encoding = 'UTF8';";
my $sql = <<"END";
$utf8
CREATE TABLE "tä" ("schlüssel" text PRIMARY KEY, "wért" text);
SELECT outbox.publish('"tä"', topic => '$topic', event_type => 'Ä', headers => '{"ö":"ü"}', with_headers => '{source}', initial => 'none');
SET pg_outbox.correlation_id = 'ñ';
INSERT INTO "tä" VALUES ('ß', 'é');
CREATE TABLE replica ("schlüssel" text PRIMARY KEY, "wért" text, version bigint NOT NULL);
SELECT outbox.replicate('replica', topic => '$topic');
END
utf8::encode($sql);
$node->safe_psql('latin', $sql);

is_soon($node, 'latin', q(SELECT encode(textsend(split_part(r::text, ',', 2)), 'hex') FROM replica r), 'e9', 'a row arrives');
my ($event) = topic_read($broker, $topic);
is($event->{key}, "\303\237", 'the key is UTF-8');
is($event->{value}, "{\"schl\303\274ssel\":\"\303\237\",\"w\303\251rt\":\"\303\251\"}", 'so is the value');
my %header = %{$event->{headers}};
is(join("|", sort keys %header), "correlation_id|id|op|source|type|\303\266", "and headers, their names included");
is($header{"\303\266"}, "\303\274", "their values");
is($header{type}, "\303\204", 'the type');
is($header{source}, "latin.public.t\303\244", 'the source');
is($header{correlation_id}, "\303\261", 'and what the session set');
is($node->safe_psql('latin', q(SELECT count(*) FROM outbox.events WHERE headers ->> 'type' IS NOT NULL)), '1', 'the view converts them back');

# A name that a header carries as JSON
my $jsons = unique_topic('jsons');
topic_create($broker, $jsons, 1);
$sql = <<"END";
$utf8
CREATE TABLE jsons ("schlüssel" text PRIMARY KEY, "wért" jsonb, a jsonb[], t text[]);
SELECT outbox.publish('jsons', topic => '$jsons', initial => 'none');
INSERT INTO jsons VALUES ('ß', 'null', ARRAY['null']::jsonb[], '[0:0]={é}');
CREATE TABLE jsons_replica ("schlüssel" text PRIMARY KEY, "wért" jsonb, a jsonb[], t text[], version bigint NOT NULL);
SELECT outbox.replicate('jsons_replica', topic => '$jsons');
END
utf8::encode($sql);
$node->safe_psql('latin', $sql);
is_soon($node, 'latin', q{SELECT count(*) FROM jsons j, jsons_replica r WHERE rtrim(j::text, ')') = substring(r::text FROM '(.*),')}, '1', 'a null of JSON arrives');
is((topic_read($broker, $jsons))[0]{headers}{json_verbatim}, "[\"w\303\251rt\"]", 'by a name in UTF-8');

# No text at all, in each place
topic_write($broker, $topic, {key => "\377", value => '{"x": 1}', headers => ["\376\377" => "\377"]});
topic_write($broker, $topic, {key => "1", value => "\377\376", headers => ['version' => '7']});
my $kanji = "{\"schl\303\274ssel\":\"\346\227\245\",\"w\303\251rt\":\"\",\"version\":9}";
topic_write($broker, $topic, {key => "1", value => $kanji});
is_soon($node, 'latin', q(SELECT string_agg(sqlstate, ' ' ORDER BY id) FROM outbox.dead_letters WHERE state = 'dead'),
	'22021 22021 22P05', 'what is no text, or none of this encoding, is set aside');
is($node->safe_psql('latin', q(SELECT headers ->> 0 FROM outbox.dead_letters ORDER BY id LIMIT 1)), '["\\\\376\\\\377", "\\\\377"]', 'with its bytes');
is($node->safe_psql('latin', q(SELECT outbox.redrive_all('replica'))), '3', 'and driven again');
is_soon($node, 'latin', q(SELECT string_agg(sqlstate || attempts, ' ' ORDER BY id) FROM outbox.dead_letters WHERE state = 'dead'),
	'220212 220212 22P052', 'comes back');

done_testing();
