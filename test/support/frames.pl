# Frames on a link, for tests: every line read from standard input is a frame in hex that is sent; every frame that
# arrives (not those that this machine sends) is a line in hex on standard output. The first line says "ready".
use strict;
use warnings;

my ($link) = @ARGV;
my ($AF_PACKET, $SOCK_RAW, $ETH_P_ALL, $SIOCGIFINDEX, $PACKET_OUTGOING) = (17, 3, 3, 0x8933, 4);
socket(my $socket, $AF_PACKET, $SOCK_RAW, unpack('S', pack('n', $ETH_P_ALL))) or die "socket: $!";
my $request = pack('a16 x16', $link);
ioctl($socket, $SIOCGIFINDEX, $request) or die "$link: $!";
my $index = unpack('x16 i', $request);
bind($socket, pack('S n i S C C a8', $AF_PACKET, $ETH_P_ALL, $index, 0, 0, 0, '')) or die "bind: $!";
$| = 1;
print "ready\n";
my $buffer = '';
while (1) {
    my $wanted = '';
    vec($wanted, fileno($socket), 1) = 1;
    vec($wanted, fileno(STDIN), 1) = 1;
    select(my $ready = $wanted, undef, undef, undef);
    if (vec($ready, fileno(STDIN), 1)) {
        sysread(STDIN, $buffer, 65536, length $buffer) or exit 0;
        while ($buffer =~ s/^([^\n]*)\n//) {
            send($socket, pack('H*', $1), 0) // print "error $!\n";
        }
    }
    if (vec($ready, fileno($socket), 1)) {
        my $from = recv($socket, my $frame, 65536, 0);
        next unless defined $from;
        my (undef, undef, undef, undef, $type) = unpack('S n i S C', $from);
        print unpack('H*', $frame), "\n" if $type != $PACKET_OUTGOING;
    }
}
