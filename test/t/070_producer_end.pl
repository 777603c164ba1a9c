# Producers end in the background: a name server that does not answer holds up the
# server it concerns, and no other.

use strict;
use warnings FATAL => 'all';

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Names under ".slow" are not found, and not before the file is gone.
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/resolver.c", <<"END");
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res)
{
	int			(*real) (const char *, const char *, const struct addrinfo *, struct addrinfo **);

	if (node != NULL && strstr(node, ".slow") != NULL)
	{
		while (access("$dir/wait", F_OK) == 0)
			usleep(20000);
		return EAI_AGAIN;
	}
	*(void **) &real = dlsym(RTLD_NEXT, "getaddrinfo");
	return real(node, service, hints, res);
}
END
system('cc', '-shared', '-fPIC', '-o', "$dir/resolver.so", "$dir/resolver.c", '-ldl') == 0
  or die 'could not compile the resolver';
append_to_file("$dir/wait", '');

my $broker = outbox_broker(mock => 1);
my ($near, $far) = (unique_topic('near'), unique_topic('far'));
topic_create($broker, $_, 1) for $near, $far;
my $node = outbox_node('main', start => 0);
{
	local $ENV{LD_PRELOAD} = join ' ', grep { defined } $ENV{LD_PRELOAD}, "$dir/resolver.so";
	$node->start;
}
outbox_install($node, 'shop', $broker);
$node->safe_psql('shop', <<"END");
CREATE SERVER far FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'kafka.slow:9092');
SELECT outbox.emit('$near', 'k', 'one'::text), outbox.emit('$far', 'k', 'one'::text, server => 'far');
END
is(join(' ', map { $_->{value} } topic_wait($broker, $near, 1)), 'one', 'a server that answers');
my $status = q(SELECT last_error FROM outbox.status WHERE kind = 'server' AND name = 'far');
is_soon($node, 'shop', $status, qr/no broker/, 'another whose name is being looked up');

$node->safe_psql('shop', qq(ALTER SERVER far OPTIONS (SET "bootstrap.servers" '$broker->{bootstrap}')));
is_soon($node, 'shop', $status, qr/former connections/, 'its former producer does not end');
$node->safe_psql('shop', "SELECT outbox.emit('$near', 'k', 'two'::text)");
is(join(' ', map { $_->{value} } topic_wait($broker, $near, 2)), 'one two', 'the others go on');
is(join(' ', map { $_->{value} } topic_read($broker, $far)), '', 'it gets no other producer before');

unlink "$dir/wait";
is(join(' ', map { $_->{value} } topic_wait($broker, $far, 1)), 'one', 'then it does');
is_soon($node, 'shop', $status, '', 'and all is well');

# Nor does it hold up the end of the server.
append_to_file("$dir/wait", '');
$node->safe_psql('shop', q(ALTER SERVER far OPTIONS (SET "bootstrap.servers" 'kafka.slow:9092')));
is_soon($node, 'shop', $status, qr/no broker/, 'being looked up again');
$node->safe_psql('shop', q(ALTER SERVER far OPTIONS (SET "bootstrap.servers" 'other.slow:9092')));
is_soon($node, 'shop', $status, qr/former connections/, 'one that does not end');
my $begin = time;
$node->stop('fast');
cmp_ok(time - $begin, '<', 5, 'the server stops all the same');
done_testing();
