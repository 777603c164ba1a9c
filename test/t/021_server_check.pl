# outbox.server_check against a broker that is there, one that is not, and one
# that does not answer; whose user mapping is used; the file of secrets.

use strict;
use warnings FATAL => 'all';

use IO::Socket::INET;
use IPC::Run;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = outbox_node('check', preload => 0, conf => "log_min_error_statement = panic");
my $mock = outbox_broker(mock => 1, brokers => 3);
outbox_install($node, 'postgres', $mock);

sub check
{
	my ($name) = @_;
	my ($rc, $out, $err) =
	  $node->psql('postgres', "SELECT * FROM outbox.server_check('" . ($name // 'kafka') . "')");
	return $rc == 0 ? $out : $err;
}

sub alter
{
	my ($options) = @_;
	$node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS ($options)");
	return;
}

# ---------------------------------------------------------------------------
# There, not there, silent
# ---------------------------------------------------------------------------

my $ports = join ', ', map { my ($n, $address) = ($_, (split /,/, $mock->{bootstrap})[ $_ - 1 ]); "$n=$address" } 1 .. 3;
like(check(), qr/^t\|3\|\Q$ports\E\|mockCluster\w*\|\d+\|$/, 'brokers, cluster and controller');

mock_control($mock, 'down', 'all');
like(check(), qr/^f\|0\|\|\|\|127\.0\.0\.1:\d+.*(refused|Disconnected)/, 'the reason why not');
mock_control($mock, 'up', 'all');

alter(q(ADD "security.protocol" 'ssl'));
like(check(), qr/^f\|0\|\|\|\|ssl:.*(SSL|Disconnected)/, 'TLS that is not spoken there');
alter(q(DROP "security.protocol"));

# A port that takes connections and says nothing.
my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5) or die $!;
my $port   = $silent->sockport;
alter(qq(SET "bootstrap.servers" '127.0.0.1:$port'));
my $begin = time;
my ($rc, $out, $err) = $node->psql('postgres',
	q(SET statement_timeout = '500ms'; SET pg_outbox.connect_timeout = '10min'; SELECT outbox.server_check()));
like($err, qr/canceling statement due to statement timeout/, 'can be cancelled');
cmp_ok(time - $begin, '<', 30, 'and soon');
$begin = time;
is( $node->safe_psql('postgres',
		q(SET pg_outbox.connect_timeout = '300ms'; SELECT ok, broker_count, detail FROM outbox.server_check())),
	'f|0|no broker has answered yet', 'limited by pg_outbox.connect_timeout');
cmp_ok(time - $begin, '<', 30, 'and soon');

# A backend that is told to end in the middle of it does so.
my $session = IPC::Run::start(
	[ 'psql', '-Xq', '-d', $node->connstr('postgres'), '-c', q(SET pg_outbox.connect_timeout = '10min'),
		'-c', 'SELECT outbox.server_check()' ],
	'<', \'', '>&', \my $output);
my $active = q(FROM pg_stat_activity WHERE query = 'SELECT outbox.server_check()' AND state = 'active');
is_soon($node, 'postgres', "SELECT count(*) $active", '1', 'a check that waits');
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) $active");
$session->finish;
like($output, qr/terminating connection due to administrator command/, 'is told to end, and does');
unlike(slurp_file($node->logfile), qr/terminated by signal/, 'in peace');

# No thread survives a check: the same session goes on as before.
is( $node->safe_psql('postgres', <<'END'), "f\nf\n1", 'the session goes on');
SET pg_outbox.connect_timeout = '200ms';
SELECT ok FROM outbox.server_check();
SELECT ok FROM outbox.server_check();
SELECT count(*) FROM regexp_split_to_table(pg_read_file('/proc/' || pg_backend_pid() || '/status'), E'\n') line
WHERE line ~ '^Threads:\s1$';
END
alter(qq(SET "bootstrap.servers" '$mock->{bootstrap}'));

# ---------------------------------------------------------------------------
# Secrets
# ---------------------------------------------------------------------------

my $dir  = PostgreSQL::Test::Utils::tempdir();
my $file = "$dir/secrets";

sub secrets
{
	my ($text, $mode) = @_;
	unlink $file;
	append_to_file($file, $text);
	chmod $mode // 0600, $file;
	return;
}

alter(qq(ADD "secrets.file" '$file'));
like(check(), qr/could not open secrets file ".*": No such file/, 'missing');
secrets("# nothing\n\n   \n");
like(check(), qr/^t\|3/, 'empty but for comments');
secrets("sasl.username = joe\n  sasl.password=pass=word#1  \n#x\n");
like(check(), qr/^t\|3/, 'credentials');
for my $mode (0640, 0604, 0660, 0644)
{
	secrets("sasl.password=geheim\n", $mode);
	like(check(), qr/secrets file ".*" is not private/, sprintf 'mode %04o', $mode);
}
secrets("sasl.password=geheim\n", 0400);
like(check(), qr/^t\|3/, 'read-only is as good');
secrets("sasl.password=geheim\nbootstrap.servers=evil.example:9092\n");
like(check(), qr/"bootstrap.servers" belongs to a server.*\n.*\n.*line 2 of secrets file/, 'no server options');
secrets("sasl.password=geheim\nplugin.library.paths=/tmp/evil.so\n");
like(check(), qr/"plugin.library.paths" is not allowed/, 'nothing that runs code');
for my $text ("geheim\n", "Geheim=1\n", "=geheim\n", "geheim geheim = x\n", "sasl.password\n", "sasl.password=\n",
	"geheim=1\n", "geheim.geheim=\n", "sasl.mechanism=geheim\n", "sasl.pasword=geheim\n", "sasl.password=gehe\0im\n",
	"sasl.password=geheim\0\n", "\0", "sasl.password = geheim\nssl.key.pem = -----BEGIN PRIVATE KEY-----\ngeheim==\n")
{
	secrets($text);
	my $answer = check();
	like($answer, qr/ERROR/, 'refused: ' . $text =~ s/\n//gr =~ s/\0/<NUL>/gr);
	unlike($answer, qr/geheim/i, 'and not repeated');
}
secrets("sasl.username=joe\n\0\nacks=1\n");
like(check(), qr/secrets file ".*" has a zero byte/, 'nothing is passed over behind a zero byte');
secrets('sasl.password=' . 'x' x 70000);
like(check(), qr/secrets file ".*" is too large/, 'too large');
secrets('#' x 65536);
like(check(), qr/^t\|3/, 'but not at its limit');
# What the name leads to is judged, and judged when it is open.
symlink($file, "$dir/link");
alter(qq(SET "secrets.file" '$dir/link'));
like(check(), qr/^t\|3/, 'a link to a private file');
chmod 0644, $file;
like(check(), qr/secrets file ".*" is not private/, 'to one that is not');
unlink $file;
like(check(), qr/could not open secrets file/, 'to nothing');
unlink "$dir/link";
symlink('/etc/passwd', "$dir/link");
like(check(), qr/secrets file ".*" is not private/, "to somebody else's");
mkdir "$dir/d", 0700;
alter(qq(SET "secrets.file" '$dir/d'));
like(check(), qr/is not a regular file|Is a directory/, 'a directory');
system('mkfifo', '-m', '0600', "$dir/fifo");
alter(qq(SET "secrets.file" '$dir/fifo'));
like(check(), qr/is not a regular file/, 'a pipe');
alter(q(DROP "secrets.file"));

# Nothing secret in the log either, although these statements fail.
my $before = -s $node->logfile;
$node->append_conf('postgresql.conf', 'log_min_error_statement = error');
$node->reload;
$node->psql('postgres', q(CREATE USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS ("sasl.pasword" 'Geheim1')));
$node->psql('postgres', q(CREATE USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS ("sasl.password" 'Geheim2', acks '1')));
$node->psql('postgres', q(CREATE USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS ("ssl.key.pem" 'Geheim3')));
$node->psql('postgres', q(ALTER USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS (ADD "security.protocol" 'Geheim4')));
check();
unlike(substr(slurp_file($node->logfile), $before), qr/Geheim/, 'no secret in the log');
$node->safe_psql('postgres', 'DROP USER MAPPING IF EXISTS FOR CURRENT_USER SERVER kafka');

# ---------------------------------------------------------------------------
# Whose mapping
# ---------------------------------------------------------------------------

# A private key that is none makes the client fail, which shows what is used.
$node->safe_psql('postgres', <<'END');
CREATE ROLE owner LOGIN;
CREATE ROLE clerk LOGIN;
GRANT USAGE ON FOREIGN DATA WRAPPER outbox_kafka TO owner;
ALTER SERVER kafka OPTIONS (ADD "security.protocol" 'ssl');
ALTER SERVER kafka OWNER TO owner;
GRANT USAGE ON FOREIGN SERVER kafka TO clerk;
CREATE USER MAPPING FOR clerk SERVER kafka OPTIONS ("ssl.key.pem" 'no key');
END

sub uses_a_key
{
	my ($role) = @_;
	my ($rc, $out, $err) =
	  $node->psql('postgres', "SET ROLE $role; SELECT ok FROM outbox.server_check()");
	return $err =~ /could not create a Kafka client/ ? 'yes' : 'no';
}
is(uses_a_key('clerk'), 'no', "a user's own mapping is not used");
$node->safe_psql('postgres', q(CREATE USER MAPPING FOR PUBLIC SERVER kafka OPTIONS ("ssl.key.pem" 'no key')));
is(uses_a_key('clerk'), 'yes', 'that of PUBLIC is');
$node->safe_psql('postgres', q(CREATE USER MAPPING FOR owner SERVER kafka OPTIONS ("sasl.username" 'x')));
is(uses_a_key('clerk'), 'no', "unless the server's owner has one");
$node->safe_psql('postgres', q(ALTER USER MAPPING FOR owner SERVER kafka OPTIONS (ADD "ssl.key.pem" 'no key')));
is(uses_a_key('clerk'), 'yes', "which is used");

$node->stop;
done_testing();
