# Processes that end while threads of the Kafka client use the TLS library.  The
# clean-up that exit() runs then crashes one in about ten, and with it the whole
# server; see docs/decisions/kafka-client.md.

use strict;
use warnings FATAL => 'all';

use File::Basename;
use IPC::Run;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = 40;

# A TLS server that says nothing stands in for a broker.
plan skip_all => 'needs the program openssl' if system('openssl version >/dev/null 2>&1') != 0;
my $dir  = PostgreSQL::Test::Utils::tempdir();
my $port = OutboxTest::free_tcp_port();
system("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
	  . "-addext subjectAltName=IP:127.0.0.1 -keyout $dir/key.pem -out $dir/cert.pem 2>/dev/null") == 0
  or die 'openssl could not make a certificate';
my ($in, $out) = ('', '');
my $tls = IPC::Run::start(
	[ 'openssl', 's_server', '-accept', $port, '-cert', "$dir/cert.pem", '-key', "$dir/key.pem" ],
	'<', \$in, '>&', \$out);
END { local $?; $tls->kill_kill(grace => 1) if defined $tls }
wait_until(sub { $tls->pump_nb; return $out =~ /ACCEPT/ }, 'the TLS server') or die $out;

my $node = outbox_node('exit', preload => 0, conf => 'restart_after_crash = off');
outbox_install($node, 'postgres', "127.0.0.1:$port",
	'security.protocol' => 'ssl',
	'ssl.ca.location'   => "$dir/cert.pem");
$node->safe_psql('postgres',
	slurp_file(dirname(__FILE__) . '/../modules/outbox_test_kafka/functions.sql'));
my $settings = "'bootstrap.servers=127.0.0.1:$port', 'security.protocol=ssl', 'ssl.ca.location=$dir/cert.pem'";

# A worker: its exit callback is there first, then it uses the client.
for my $round (1 .. $rounds)
{
	$node->safe_psql('postgres', <<"END");
SELECT tk.register_exit();
ALTER SERVER kafka OPTIONS (SET "bootstrap.servers" '127.0.0.1:$port');
SELECT tk.producer_open($settings);
END
}
is($node->safe_psql('postgres', 'SELECT 1'), '1', "$rounds workers ended in peace");

# A backend that is told to end in the middle of a check.
my $active = q(FROM pg_stat_activity WHERE query = 'SELECT outbox.server_check()' AND state = 'active');
for my $round (1 .. $rounds)
{
	my $session = IPC::Run::start(
		[ 'psql', '-Xq', '-d', $node->connstr('postgres'), '-c', q(SET pg_outbox.connect_timeout = '10min'),
			'-c', 'SELECT outbox.server_check()' ],
		'<', \'', '>&', \my $output);
	wait_for_sql($node, 'postgres', "SELECT count(pg_terminate_backend(pid)) $active", '1') or last;
	$session->finish;
}
is($node->safe_psql('postgres', 'SELECT 1'), '1', "$rounds backends ended in peace");
unlike(slurp_file($node->logfile), qr/terminated by signal/, 'the log says so, too');

$node->stop;
done_testing();
