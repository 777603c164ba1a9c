# A handler is known by name.  Its owner may drop it and create it again; a function
# of that name that belongs to somebody else is not called.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker(mock => 1);
my $topic  = unique_topic('owned');
topic_create($broker, $topic, 1);
my $node = outbox_node('main');
outbox_install($node, 'postgres', $broker);
$node->safe_psql('postgres', <<'END');
CREATE ROLE alice;
CREATE ROLE bob;
CREATE SCHEMA shared;
GRANT USAGE, CREATE ON SCHEMA shared TO alice, bob;
GRANT USAGE ON FOREIGN SERVER kafka TO alice, bob;
GRANT EXECUTE ON FUNCTION outbox.handle, outbox.unsubscribe, outbox.resume_subscription TO alice, bob;
CREATE TABLE got (who text, k text);
GRANT INSERT ON got TO alice, bob;
END

sub as
{
	my ($role, $sql) = @_;
	return $node->safe_psql('postgres', "SET ROLE $role;\n$sql");
}

sub fails
{
	my ($role, $sql, $like, $name) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SET ROLE $role; $sql");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return like($err, $like, $name);
}

my $create = 'CREATE FUNCTION shared.h(e outbox.event) RETURNS void LANGUAGE sql BEGIN ATOMIC INSERT INTO public.got VALUES (current_user, (e).key); END;';
my $handle = "SELECT outbox.handle('shared.h(outbox.event)', topic => '$topic', name => 'h');";
my $got    = q(SELECT string_agg(who || k, ' ' ORDER BY k) FROM got);
my $state  = q(SELECT state || coalesce(' ' || stopped_sqlstate || ' ' || stopped_reason, '') FROM outbox.subscriptions WHERE name = 'h');

as('alice', "$create $handle");
topic_write($broker, $topic, { key => 1, value => 'x' });
is_soon($node, 'postgres', $got, 'alice1', 'it is called as its owner');
as('alice', "BEGIN; DROP FUNCTION shared.h; $create COMMIT; " . ($create =~ s/CREATE/CREATE OR REPLACE/r));
topic_write($broker, $topic, { key => 2, value => 'x' });
is_soon($node, 'postgres', $got, 'alice1 alice2', 'one that its owner made anew, too');

as('alice', 'DROP FUNCTION shared.h');
as('bob',   $create);
topic_write($broker, $topic, { key => 3, value => 'x' });
is_soon($node, 'postgres', $state,
	'stopped 42501 handler shared.h belongs to role "bob", not to role "alice" as when it was subscribed', "another's is not");
fails('bob', $handle, qr/subscription "h" is for a handler of another role/, 'who cannot take the subscription');
fails('bob', q(SELECT outbox.resume_subscription('h')), qr/must be owner of the target/, 'or resume it');
fails('bob', q(SELECT outbox.unsubscribe('h')), qr/must be owner of the target/, 'or end it');
as('alice', q(SELECT outbox.resume_subscription('h')));
is_soon($node, 'postgres', $state, qr/^stopped 42501/, 'it stops again');

# Whoever may decide says that it is right.
$node->safe_psql('postgres', $handle);
is_soon($node, 'postgres', $got, 'alice1 alice2 bob3', 'until a superuser says so');
is($node->safe_psql('postgres', q(SELECT handler_owner FROM outbox._subscription)), 'bob', 'whose it is now');
$node->safe_psql('postgres', 'ALTER FUNCTION shared.h OWNER TO alice');
topic_write($broker, $topic, { key => 4, value => 'x' });
is_soon($node, 'postgres', $state, qr/^stopped 42501 handler shared.h belongs to role "alice", not to role "bob"/, 'a new owner is noticed');
$node->safe_psql('postgres', 'GRANT bob TO alice');
as('alice', $handle);
is_soon($node, 'postgres', $got, 'alice1 alice2 bob3 alice4', 'a member of both may say so');

# Between the look at the owner and the call nobody puts another in its place.
fault($node, 'handler-locked=wait');
topic_write($broker, $topic, { key => 5, value => 'x' });
ok(wait_until(sub { slurp_file($node->logfile) =~ /fault point "handler-locked"/ }, 'the applier waits'), 'about to be called');
fails('alice', q(SET lock_timeout = '100ms'; DROP FUNCTION shared.h), qr/lock timeout/, 'it is not dropped');
fails('alice', q(SET lock_timeout = '100ms'; ALTER FUNCTION shared.h OWNER TO bob), qr/lock timeout/, 'nor given away');
no_faults($node);
is_soon($node, 'postgres', $got, 'alice1 alice2 bob3 alice4 alice5', 'it is called');

# A dump has names of roles.
like($node->safe_psql('postgres', q(COPY outbox._subscription (handler, handler_owner) TO STDOUT)), qr/^shared\.h\talice$/, 'it is dumped by name');

# As a row of a dump of before.
$node->safe_psql('postgres', q(REVOKE bob FROM alice; UPDATE outbox._subscription SET handler_owner = NULL, generation = generation + 1;
	SELECT outbox.pause_subscription('h'), outbox.resume_subscription('h')));
topic_write($broker, $topic, { key => 6, value => 'x' });
is_soon($node, 'postgres', $state, 'stopped 42501 it is not known whose function handler shared.h was when it was subscribed', 'nobody is known');
fails('alice', $handle, qr/subscription "h" is for a handler of another role/, 'its owner now cannot take it');
fails('alice', q(SELECT outbox.resume_subscription('h')), qr/must be owner of the target/, 'or resume it');
$node->safe_psql('postgres', $handle);
is_soon($node, 'postgres', $got, 'alice1 alice2 bob3 alice4 alice5 alice6', 'a superuser says whose it is');

as('alice', q(DROP FUNCTION shared.h; SELECT outbox.unsubscribe('h')));
is($node->safe_psql('postgres', 'SELECT count(*) FROM outbox.subscriptions'), '0', 'its owner ends it when the function is gone');

done_testing();
