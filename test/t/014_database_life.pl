# What an administrator does to databases, extensions and roles while events are
# written and sent: PostgreSQL's commands work as ever, and what is published
# stays right.

use strict;
use warnings FATAL => 'all';

use File::Temp;
use IPC::Run ();
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = outbox_broker();
my $node   = outbox_node('main');
my $server = qq(CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$broker->{bootstrap}'));

# A database that publishes a table of 20 counters.
my %topic;

sub publish_counter
{
	my ($db) = @_;

	$topic{$db} = unique_topic($db);
	topic_create($broker, $topic{$db}, 1);
	$node->safe_psql($db, "SELECT outbox.publish('counter', topic => '$topic{$db}', initial => 'none')");
	return;
}

sub service
{
	my ($db) = @_;

	outbox_install($node, $db, $broker);
	$node->safe_psql($db, 'CREATE TABLE counter AS SELECT g AS id, 0 AS n FROM generate_series(1, 20) g;
		ALTER TABLE counter ADD PRIMARY KEY (id)');
	publish_counter($db);
	return;
}

my $load = File::Temp->new(SUFFIX => '.sql');
print $load "\\set k random(1, 20)\nUPDATE counter SET n = n + 1 WHERE id = :k;\n";
close $load;

sub start_writers
{
	my ($db) = @_;
	my $out = '';
	my $handle = IPC::Run::start(
		[ 'pgbench', '-n', '-f', "$load", '-c', 4, '-R', 400, '-T', 300, '--max-tries', 20, $node->connstr($db) ],
		'<', \'', '>', '/dev/null', '2>', \$out);
	return { handle => $handle, out => \$out };
}

sub end_writers
{
	my ($writers) = @_;

	$writers->{handle}->signal('TERM');
	$writers->{handle}->finish;
	return;
}

sub flows
{
	my ($db, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $settled = 'SELECT settled_events FROM outbox.stat_servers';
	wait_for_sql($node, $db, "SELECT count(*) FROM ($settled) s", '1');
	my $before = $node->safe_psql($db, $settled);

	$node->safe_psql($db, 'UPDATE counter SET n = n + 1');
	return is_soon($node, $db, "SELECT ($settled) >= $before + 20", 't', $name);
}

# First deliveries: of each counter every value, from the first that is there.
sub in_order
{
	my ($db, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my (%last, %seen);
	my $bad = 0;
	my @records = topic_read($broker, $topic{$db});

	for my $r (@records)
	{
		my ($n) = $r->{value} =~ /"n": ?(\d+)/;

		next if $seen{ $r->{headers}{id} }++;
		$bad++ if $n != ($last{ $r->{key} } // $n - 1) + 1;
		$last{ $r->{key} } = $n;
	}
	return is("$bad of " . (keys %seen >= 40 ? 'many' : keys %seen), '0 of many', $name);
}

sub largest_id
{
	my ($db) = @_;
	my ($id) = sort { $b <=> $a } map { $_->{headers}{id} } topic_read($broker, $topic{$db});
	return $id;
}

sub no_relay
{
	my ($db, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is($node->safe_psql('postgres',
			"SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'pg_outbox (relay|applier)' AND datname = '$db'"),
		'0', $name);
}

# One database that nothing is done to.
service('bystander');
flows('bystander', 'the bystander publishes');
my $bystander = worker_pid($node, 'bystander', 'relay');

# ---------------------------------------------------------------------------
# DROP DATABASE amid writers
# ---------------------------------------------------------------------------

service('doomed');
my $writers = start_writers('doomed');
flows('doomed', 'a database under load');
my ($rc, $out, $err) = $node->psql('postgres', 'DROP DATABASE doomed');
like($err, qr/database "doomed" is being accessed by other users/, 'DROP DATABASE is refused, as writers are connected');
flows('doomed', 'the relay goes on');
$node->safe_psql('postgres', 'DROP DATABASE doomed WITH (FORCE)');
$writers->{handle}->finish;
like(${ $writers->{out} }, qr/terminating connection due to administrator command/, 'DROP DATABASE (FORCE) ends the writers');
no_relay('doomed', 'and our workers');
in_order('doomed', 'what has been sent until then is in order');

# ---------------------------------------------------------------------------
# DROP EXTENSION CASCADE amid writers
# ---------------------------------------------------------------------------

service('shop');
$writers = start_writers('shop');
flows('shop', 'publishes under load');
my $tries = 0;
ok( wait_until(
		sub {
			$tries++;
			($rc, $out, $err) = $node->psql('shop', 'DROP EXTENSION pg_outbox CASCADE');
			die $err if $rc != 0 && $err !~ /deadlock detected/;
			return $rc == 0;
		},
		sub { $err }),
	'DROP EXTENSION CASCADE amid writers');
note "it took $tries tries";
no_relay('shop', 'no worker is left');
my $sum = $node->safe_psql('shop', 'SELECT sum(n) FROM counter');
is_soon($node, 'shop', "SELECT sum(n) > $sum + 100 FROM counter", 't', 'writers go on without it');
my $largest = largest_id('shop');
in_order('shop', 'what has been sent until then is in order');
$node->safe_psql('shop', "CREATE EXTENSION pg_outbox; $server");
publish_counter('shop');
flows('shop', 'created and published again, amid writers');
end_writers($writers);
is(${ $writers->{out} } =~ s/^.*deadlock detected.*\n//mgr, '', 'no writer has had an error');
is_soon($node, 'shop', 'SELECT backlog_events FROM outbox.stat_servers', '0', 'everything is sent');
in_order('shop', 'and is in order');
my ($smallest) = sort { $a <=> $b } map { $_->{headers}{id} } topic_read($broker, $topic{shop});
cmp_ok($smallest, '>', $largest, 'with versions above those of the extension before');

# ---------------------------------------------------------------------------
# DROP and CREATE EXTENSION within a second
# ---------------------------------------------------------------------------

my $again = 'DROP EXTENSION pg_outbox CASCADE; CREATE EXTENSION pg_outbox';
my $emit  = "SELECT min(id), max(id) FROM (SELECT outbox.emit('$topic{shop}', 'again', g::text) AS id FROM generate_series(1, 100) g) e;\n";
my $published = largest_id('shop');
my $dropped = "$again; $server;\n$emit";
my @ranges;

# Twice in a row, until both fall into one second.
sub twice_in_a_second
{
	my @two = map { [ split /\|/ ] } split /\n/, $node->safe_psql('shop',
		"SET client_min_messages = error;\n$dropped$dropped" . "BEGIN; $again; $server;\n${emit}COMMIT;\n");

	push @ranges, @two;
	return @two == 3 && ($two[0][0] >> 20) == ($two[1][0] >> 20);
}
ok(wait_until(\&twice_in_a_second, 'two of them within a second'), 'dropped and created twice within a second');
cmp_ok($ranges[0][0], '>', $published, 'versions are above those that were published');
is(join(' ', grep { $ranges[$_][0] <= $ranges[ $_ - 1 ][1] } 1 .. $#ranges), '', 'and grow each time');
ok(wait_until(sub { largest_id('shop') == $ranges[-1][1] }, 'the last events'), 'the last ones are published');

# What was recorded before is there again when it is rolled back.
($rc, $out, $err) = $node->psql('shop', <<"END", on_error_stop => 0);
SET client_min_messages = error;
BEGIN;
SELECT outbox.emit('$topic{shop}', 'before', '1');
SAVEPOINT s;
$again;
$server;
SELECT outbox.emit('$topic{shop}', 'after', '1');
ROLLBACK TO s;
COMMIT;
END
like($err, qr/cannot record events after extension pg_outbox was created again in a subtransaction/, 'no event of another extension in a subtransaction');
is($node->safe_psql('shop', "SELECT string_agg(key, ',') FROM outbox.events WHERE key IN ('before', 'after')"), 'before', 'what was recorded before it is not lost');

# ---------------------------------------------------------------------------
# RENAME, TEMPLATE
# ---------------------------------------------------------------------------

publish_counter('shop');
flows('shop', 'publishes');
$node->safe_psql('postgres', 'ALTER DATABASE shop RENAME TO store');
$topic{store} = $topic{shop};
flows('store', 'publishes under its new name');
no_relay('shop', 'nobody works under the old name');

# A copy with events that the original has sent, and some that it has not.
$node->safe_psql('store', "SELECT outbox.pause('relay')");
is_soon($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_outbox relay' AND datname = 'store'", '0', 'paused');
my ($low, $high) = topic_watermarks($broker, $topic{store}, 0);
$node->safe_psql('store', 'UPDATE counter SET n = n + 1');
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE store');
$node->safe_psql('store', "SELECT outbox.resume('relay')");
ok(wait_until(sub { (topic_watermarks($broker, $topic{store}, 0))[1] == $high + 20 }, 'the events'), 'the original goes on');
$node->safe_psql('copy', 'UPDATE counter SET n = -1 WHERE id = 1');
$node->safe_psql('store', 'UPDATE counter SET n = n + 1');
is_soon($node, 'store', 'SELECT backlog_events FROM outbox.stat_servers', '0', 'and on');
no_relay('copy', 'the copy has no worker');
is((topic_watermarks($broker, $topic{store}, 0))[1], $high + 40, 'and sends nothing');
$node->safe_psql('copy', 'SELECT outbox.resume()');
is_soon($node, 'copy', 'SELECT backlog_events FROM outbox.stat_servers', '0', 'until it is told to');
my (%content, @again, @changed);
for my $r (topic_read($broker, $topic{store}))
{
	my $id = $r->{headers}{id};

	push @changed, $id if ($content{$id} // $r->{value}) ne $r->{value};
	push @again, $id if exists $content{$id} && $r->{offset} >= $high + 40;
	$content{$id} = $r->{value};
}
is(scalar(@again), 20, 'then it sends what had not been sent when it was made, and nothing else again');
is(scalar(@changed), 0, 'no version stands for two contents');
is(scalar(grep { /"n": ?-1\b/ } values %content), 1, 'and its own event');
$node->safe_psql('postgres', 'DROP DATABASE copy');

# ---------------------------------------------------------------------------
# DROP ROLE of owners
# ---------------------------------------------------------------------------

sub role_is_needed
{
	my ($role, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($status, $stdout, $stderr) = $node->psql('store', "DROP ROLE $role");

	return like($stderr, qr/role "$role" cannot be dropped because some objects depend on it.*$what/s,
		"DROP ROLE is refused: $what");
}

$node->safe_psql('store', <<'END');
CREATE ROLE keeper;
CREATE ROLE janitor;
ALTER TABLE counter OWNER TO keeper;
CREATE TABLE more (id int PRIMARY KEY);
ALTER TABLE more OWNER TO keeper;
END
role_is_needed('keeper', 'owner of table counter');
$node->safe_psql('store', 'REASSIGN OWNED BY keeper TO janitor; DROP ROLE keeper');
flows('store', "a table's owner: reassigned, dropped, and published as before");
$node->safe_psql('store', "SELECT outbox.publish('more', topic => '$topic{store}', initial => 'none');
	ALTER TABLE counter OWNER TO CURRENT_USER; INSERT INTO more VALUES (1)");
is($node->safe_psql('store', "SELECT count(*) FROM outbox.publications"), '2', 'two publications');
$node->safe_psql('store', 'DROP OWNED BY janitor; DROP ROLE janitor');
is($node->safe_psql('store', 'SELECT string_agg(name, $$ $$) FROM outbox.publications'), 'counter',
	'DROP OWNED takes table and publication away');
flows('store', 'the other one goes on');

$node->safe_psql('store', <<'END');
CREATE ROLE keeper;
GRANT USAGE ON FOREIGN DATA WRAPPER outbox_kafka TO keeper;
ALTER SERVER kafka OWNER TO keeper;
CREATE USER MAPPING FOR keeper SERVER kafka;
END
flows('store', "a server of a role's");
role_is_needed('keeper', 'owner of server kafka');
$node->safe_psql('store', 'REASSIGN OWNED BY keeper TO CURRENT_USER');
role_is_needed('keeper', 'user mapping for keeper on server kafka');
$node->safe_psql('store', 'DROP OWNED BY keeper; DROP ROLE keeper');
flows('store', "a server's owner: reassigned, dropped with its user mapping, and published as before");

$node->safe_psql('postgres', 'CREATE ROLE keeper SUPERUSER; CREATE DATABASE owned');
$node->safe_psql('owned', 'SET ROLE keeper; CREATE EXTENSION pg_outbox');
service('owned');
flows('owned', "an extension of a role's");
($rc, $out, $err) = $node->psql('owned', 'DROP ROLE keeper');
like($err, qr/cannot be dropped.*owner of extension pg_outbox/s, 'DROP ROLE is refused: owner of extension');
$node->safe_psql('owned', 'REASSIGN OWNED BY keeper TO CURRENT_USER; DROP ROLE keeper');
flows('owned', "an extension's owner: reassigned, dropped, and published as before");
my $relay = worker_pid($node, 'owned', 'relay');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($relay)");
wait_for_worker($node, 'owned', 'relay', $relay);
flows('owned', 'also by a new relay');
in_order('owned', 'in order');
$node->safe_psql('owned', 'CREATE ROLE keeper SUPERUSER; ALTER SERVER kafka OWNER TO keeper; ALTER TABLE counter OWNER TO keeper');
$node->safe_psql('owned', 'DROP OWNED BY keeper CASCADE; DROP ROLE keeper');
is_soon($node, 'owned', "SELECT count(*) FROM outbox.publications", '0', 'DROP OWNED of server and table at once');
$node->safe_psql('postgres', 'DROP DATABASE owned');

# ---------------------------------------------------------------------------

flows('bystander', 'the bystander goes on');
is(worker_pid($node, 'bystander', 'relay'), $bystander, 'with the relay that it had');
in_order('bystander', 'and in order');
unlike(slurp_file($node->logfile), qr/was terminated by signal|PANIC|all server processes terminated/, 'no process has crashed');

# ---------------------------------------------------------------------------
# max_worker_processes used up
# ---------------------------------------------------------------------------

# One for logical replication, one for the launcher, one for a relay.
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
$node->restart;
my $status = q(SELECT state || ' ' || waiting_for FROM outbox.status WHERE kind = 'worker' AND name = 'relay');
my ($busy, $idle);
ok( wait_until(
		sub {
			($busy) = grep { defined worker_pid($node, $_, 'relay') } qw(store bystander) or return 0;
			($idle) = grep { $_ ne $busy } qw(store bystander);
			return $node->safe_psql($idle, $status) =~ /^waiting .*max_worker_processes/;
		},
		sub { join ' ', map { $node->safe_psql($_, $status) } qw(store bystander) }),
	'one relay finds a process, the other one says what it waits for');
($low, $high) = topic_watermarks($broker, $topic{$idle}, 0);
$node->safe_psql($idle, 'UPDATE counter SET n = n + 1');
flows($busy, 'who has a relay publishes');
is((topic_watermarks($broker, $topic{$idle}, 0))[1], $high, 'who has none does not, but its writers write');
$node->safe_psql($busy, 'SELECT outbox.pause()');
ok(wait_until(sub { (topic_watermarks($broker, $topic{$idle}, 0))[1] == $high + 20 }, 'the events'),
	'a process that becomes free is used, and what has waited is sent');

$node->stop('fast');
done_testing();
