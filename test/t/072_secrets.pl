# Secrets against a real Kafka that asks for a certificate and a password over TLS:
# planted everywhere, used, refused and wrong, they show in no log, view, process
# title or message.  And what TLS refuses: a wrong authority, a wrong host.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

need_kafka();
my $dir = PostgreSQL::Test::Utils::tempdir();
chmod 0755, $dir;

# Each of them is found nowhere, at the end.
my %planted = map { $_ => "Planted-$_-" . int(rand 1e9) } qw(right wrong keypass badkeypass oauth file refused typo);

sub openssl
{
	my $out = '';
	IPC::Run::run([ 'openssl', @_ ], '>&', \$out) or die "openssl @_: $out";
	return;
}

for my $ca (qw(ca otherca))
{
	openssl(qw(req -x509 -newkey rsa:2048 -nodes -days 2 -subj), "/CN=$ca", '-keyout', "$dir/$ca.key", '-out', "$dir/$ca.pem");
}

# A certificate of the authority, for a name, its key perhaps encrypted.
sub certificate
{
	my ($name, $extension, @cipher) = @_;
	append_to_file("$dir/$name.ext", $extension);
	openssl('genpkey', '-algorithm', 'RSA', @cipher, '-out', "$dir/$name.key");
	openssl('req', '-new', '-subj', "/CN=$name", '-key', "$dir/$name.key", '-out', "$dir/$name.csr", @cipher ? ('-passin', $cipher[-1]) : ());
	openssl('x509', '-req', '-in', "$dir/$name.csr", '-CA', "$dir/ca.pem", '-CAkey', "$dir/ca.key", '-CAcreateserial',
		'-days', 2, '-extfile', "$dir/$name.ext", '-out', "$dir/$name.pem");
	return;
}
certificate('broker', 'subjectAltName=IP:127.0.0.1');
certificate('client', 'extendedKeyUsage=clientAuth', '-aes256', '-pass', "pass:$planted{keypass}");
append_to_file("$dir/store.pem", slurp_file("$dir/broker.key") . slurp_file("$dir/broker.pem"));

my $kafka = outbox_kafka(
	'--sasl', "joe:$planted{right}",
	map { ('--property', $_) } 'listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,SASL:SASL_SSL',
	'ssl.keystore.type=PEM', "ssl.keystore.location=$dir/store.pem",
	'ssl.truststore.type=PEM', "ssl.truststore.location=$dir/ca.pem", 'listener.name.sasl.ssl.client.auth=required');
topic_create($kafka, 'out', 1);
kafka_admin($kafka, 'allow', 'joe', $_, 'out') for qw(write read);

my $node = outbox_node('main', conf => 'log_min_messages = debug5');
my ($ca, $other, $cert, $key) = map { slurp_file("$dir/$_") } qw(ca.pem otherca.pem client.pem client.key);
outbox_install($node, 'postgres', $kafka->{sasl}, 'security.protocol' => 'sasl_ssl', 'sasl.mechanism' => 'PLAIN', 'ssl.ca.pem' => $ca);
$node->safe_psql('postgres', <<"END");
CREATE ROLE nobody LOGIN;
CREATE ROLE clerk LOGIN;
CREATE ROLE guard LOGIN IN ROLE pg_monitor;
GRANT USAGE ON FOREIGN SERVER kafka TO clerk;
CREATE USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS ("sasl.username" 'joe', "sasl.password" '$planted{wrong}',
	"ssl.certificate.pem" '$cert', "ssl.key.pem" '$key', "ssl.key.password" '$planted{keypass}');
CREATE TABLE item (id int PRIMARY KEY);
CREATE TABLE replica (id int PRIMARY KEY, version bigint NOT NULL);
SELECT outbox.publish('item', topic => 'out');
SELECT outbox.replicate('replica', topic => 'out');
INSERT INTO item VALUES (1);
END

my @said;    # what anybody was told

sub check
{
	my ($rc, $out, $err) = $node->psql('postgres', 'SET ROLE clerk; SELECT ok, detail FROM outbox.server_check()');
	push @said, $out, $err;
	return $out . $err;
}

sub mapping
{
	my ($options) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS ($options)");
	push @said, $out, $err;
	return $err;
}

# ---------------------------------------------------------------------------
# Wrong ones
# ---------------------------------------------------------------------------

is_soon($node, 'postgres', q(SELECT string_agg(DISTINCT worker, ' ' ORDER BY worker) FROM outbox._waiting_servers() WHERE reason ~ 'Authentication failed'),
	'applier relay', 'a wrong password: the workers say so');
like(check(), qr/^f\|.*Authentication failed/, 'and so does the check');
mapping(qq(SET "ssl.key.password" '$planted{badkeypass}'));
like(check(), qr/could not create a Kafka client/, 'a wrong password of the key');
mapping(qq(SET "ssl.key.password" '$planted{keypass}', SET "ssl.key.pem" '$planted{typo}'));
like(check(), qr/could not create a Kafka client/, 'a key that is none');
like(mapping(qq(ADD "sasl.pasword" '$planted{typo}')), qr/invalid option "sasl.pasword"/, 'a name misspelt');
like(mapping(qq(ADD "ssl.ca.location" '$planted{refused}')), qr/belongs to a server/, 'a secret in the wrong place');
like(mapping(qq(SET "sasl.password" ' $planted{refused}')), qr/must not begin with a blank/, 'a blank in front of it');
mapping(qq(SET "ssl.key.pem" '$key'));
# Some builds of the client can fetch no tokens, and refuse the options.
my ($rc, $out, $err) = $node->psql('postgres', <<"END");
CREATE SERVER oauth FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$kafka->{sasl}', "security.protocol" 'sasl_ssl',
	"sasl.mechanism" 'OAUTHBEARER', "sasl.oauthbearer.token.endpoint.url" 'http://127.0.0.1:1/token', "ssl.ca.pem" '$ca');
CREATE USER MAPPING FOR CURRENT_USER SERVER oauth OPTIONS ("sasl.oauthbearer.client.id" 'joe', "sasl.oauthbearer.client.secret" '$planted{oauth}');
END
push @said, $out, $err;
($rc, $out, $err) = $node->psql('postgres', q(SELECT ok, detail FROM outbox.server_check('oauth')));
push @said, $out, $err;
like($out . $err, qr/^f\||ERROR/, 'a token that cannot be had');

# ---------------------------------------------------------------------------
# What TLS refuses
# ---------------------------------------------------------------------------

mapping(qq(SET "sasl.password" '$planted{right}'));
like(check(), qr/^t\|/, 'certificate, key with a password, and password: accepted');
$node->safe_psql('postgres', qq(ALTER SERVER kafka OPTIONS (SET "ssl.ca.pem" '$other')));
like(check(), qr/^f\|.*certificate verify failed/, 'an authority that is not the broker\'s');
(my $localhost = $kafka->{sasl}) =~ s/127\.0\.0\.1/localhost/g;
$node->safe_psql('postgres', qq(ALTER SERVER kafka OPTIONS (SET "ssl.ca.pem" '$ca', SET "bootstrap.servers" '$localhost')));
like(check(), qr/^f\|.*certificate verify failed/, 'a host that the certificate does not name');
$node->safe_psql('postgres', qq(ALTER SERVER kafka OPTIONS (SET "bootstrap.servers" '$kafka->{sasl}')));
mapping('DROP "ssl.certificate.pem", DROP "ssl.key.pem", DROP "ssl.key.password"');
like(check(), qr/^f\|/, 'no certificate of ours');

# ---------------------------------------------------------------------------
# The secrets file
# ---------------------------------------------------------------------------

mapping(qq(ADD "ssl.certificate.pem" '$cert', ADD "ssl.key.pem" '$key', SET "sasl.password" '$planted{wrong}'));
append_to_file("$dir/secrets", "sasl.password = $planted{right}\nssl.key.password = $planted{keypass}\n");
chmod 0600, "$dir/secrets";
$node->safe_psql('postgres', qq(ALTER SERVER kafka OPTIONS (ADD "secrets.file" '$dir/secrets')));
like(check(), qr/^t\|/, 'from a file');
is_soon($node, 'postgres', 'SELECT id FROM replica', '1', 'and so do the workers, there and back');

# ---------------------------------------------------------------------------
# Where they are not
# ---------------------------------------------------------------------------

my @relations = split /\n/, $node->safe_psql('postgres', <<'END');
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'outbox' AND c.relkind IN ('r', 'v')
	OR c.relname ~ '^pg_(stat_|settings|user_map|foreign_server|file_settings|prepared|cursors|seclabels)'
	OR n.nspname = 'information_schema' AND c.relname ~ 'mapping|foreign'
END
cmp_ok(scalar @relations, '>', 50, 'many views are looked at');
for my $role (qw(nobody clerk guard))
{
	($rc, $out, $err) = $node->psql('postgres', join("\n", "SET ROLE $role;", map { "SELECT t::text FROM $_ AS t;" } @relations), on_error_stop => 0);
	push @said, $out, $err;
	($rc, $out, $err) = (0, '', '');
	IPC::Run::run([ 'pg_dump', '-U', $role, '-d', $node->connstr('postgres') ], '>', \$out, '2>', \$err);
	push @said, $out, $err;
}
# what a superuser sees of the extension; mappings and the activity are his own
push @said, $node->safe_psql('postgres', join "\n", map { "SELECT t::text FROM $_ AS t;" } grep { /^outbox/ } @relations);

my @processes;
for my $pid (split /\n/, $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity'), -1)
{
	push @processes, map { -r "/proc/$pid/$_" ? slurp_file("/proc/$pid/$_") : () } qw(cmdline comm);
}
ok((grep { /pg_outbox relay/ } @processes), 'process titles are looked at');
my $log = slurp_file($node->logfile);
like($log, qr/DEBUG:  /, 'the log tells a lot');
my $dump = '';
IPC::Run::run([ 'pg_dump', '-d', $node->connstr('postgres') ], '>', \$dump) or die;
my $key_text = (split /\n/, $key)[5];    # a line of the key itself
for my $name (sort keys %planted)
{
	my $secret = $planted{$name};
	ok(!(grep { index($_, $secret) >= 0 } @said), "$name: not in what anybody is told");
	ok(!(grep { index($_, $secret) >= 0 } @processes), "$name: not in process titles");
	is(index($log, $secret), -1, "$name: not in the log");
}
ok(!(grep { index($_, $key_text) >= 0 } @said, $log), 'nor is the key');
# The one place that the documentation tells of.
ok(index($dump, $planted{wrong}) >= 0, "a superuser's dump has the mappings");
ok(index($dump, $planted{right}) < 0 && index($dump, $planted{keypass}) < 0, 'but not the file');

$node->stop;
done_testing();
