# A DHCP client for tests: asks for an address on one link, once, and writes what it was given, "key value" a line.
# It only asks; the link is configured by the test. Only perl-base is needed, since test machines have no client.
#
#   perl dhcp-client.pl 4 LINK MAC [HOSTNAME]    DISCOVER, OFFER, REQUEST, ACK (RFC 2131)
#   perl dhcp-client.pl 6 LINK MAC               SOLICIT and REPLY with rapid commit (RFC 8415)
use strict;
use warnings;
use Socket qw(AF_INET AF_INET6 SOCK_DGRAM SOL_SOCKET SO_BROADCAST SO_REUSEADDR pack_sockaddr_in pack_sockaddr_in6
  inet_aton inet_ntoa inet_pton inet_ntop INADDR_ANY IN6ADDR_ANY);

my ($family, $link, $mac, $hostname) = @ARGV;
my $hardware = pack 'H12', $mac =~ s/://gr;
my $SO_BINDTODEVICE = 25;    # asm-generic/socket.h
$| = 1;

# Sends, and hands each answer to $take until it returns something; sends again each second, ten times at most.
sub exchange {
    my ($socket, $to, $message, $take) = @_;
    for (1 .. 10) {
        send $socket, $message, 0, $to or die "send: $!\n";
        my $until = time + 1;
        while (time <= $until) {
            my $ready = '';
            vec($ready, fileno $socket, 1) = 1;
            next if !select $ready, undef, undef, 0.2;
            defined recv $socket, my $answer, 4096, 0 or die "recv: $!\n";
            my $result = $take->($answer);
            return $result if $result;
        }
    }
    die "no answer on $link\n";
}

sub client_socket {
    my ($domain, $address) = @_;
    socket my $socket, $domain, SOCK_DGRAM, 0 or die "socket: $!\n";
    setsockopt $socket, SOL_SOCKET, SO_REUSEADDR, 1 or die "reuse: $!\n";
    setsockopt $socket, SOL_SOCKET, $SO_BINDTODEVICE, "$link\0" or die "bind to $link: $!\n";
    if ($domain == AF_INET) { setsockopt $socket, SOL_SOCKET, SO_BROADCAST, 1 or die "broadcast: $!\n" }
    bind $socket, $address or die "bind: $!\n";
    return $socket;
}

sub options4 {
    my ($data) = @_;
    my %options;
    while (length $data) {
        my $code = unpack 'C', $data;
        last if $code == 255;
        if ($code == 0) { $data = substr $data, 1; next }
        my $length = unpack 'x C', $data;
        $options{$code} = substr $data, 2, $length;
        $data = substr $data, 2 + $length;
    }
    return \%options;
}

sub dhcp4 {
    my $socket = client_socket(AF_INET, pack_sockaddr_in(68, INADDR_ANY));
    my $to = pack_sockaddr_in(67, inet_aton('255.255.255.255'));
    my $id = int rand 2**32;
    my $message = sub {
        my ($type, $more) = @_;
        my $name = defined $hostname ? pack('C C/a*', 12, $hostname) : '';
        # The flag 0x8000 asks for the answer as a broadcast: there is no address yet to send it to.
        return pack('C4 N n n N4 a16 x192 N', 1, 1, 6, 0, $id, 0, 0x8000, 0, 0, 0, 0, $hardware, 0x63825363)
          . pack('C C C', 53, 1, $type) . $more . $name . pack('C C C6', 55, 6, 1, 3, 6, 12, 15, 26) . "\xff";
    };
    my $take = sub {
        my ($wanted) = @_;
        return sub {
            my ($answer) = @_;
            my ($op, $got) = unpack 'C x3 N', $answer;
            return if length $answer < 240 || $op != 2 || $got != $id;
            my $options = options4(substr $answer, 240);
            my $type = unpack 'C', $options->{53} // "\0";
            die "refused (NAK) on $link\n" if $type == 6;
            return $type == $wanted ? { address => inet_ntoa(substr $answer, 16, 4), options => $options } : undef;
        };
    };
    my $offer = exchange($socket, $to, $message->(1, ''), $take->(2));
    my $chosen = pack('C C a4', 50, 4, inet_aton($offer->{address})) . pack('C C a4', 54, 4, $offer->{options}{54});
    my $ack = exchange($socket, $to, $message->(3, $chosen), $take->(5));
    my $options = $ack->{options};
    print "address $ack->{address}\n";
    print 'prefixLength ' . unpack('%32b*', $options->{1}) . "\n";
    print 'router ' . inet_ntoa(substr $options->{3}, 0, 4) . "\n" if $options->{3};
    print 'nameServer ' . inet_ntoa(substr $options->{6}, 0, 4) . "\n" if $options->{6};
    print "domain $options->{15}\n" if $options->{15};
    print "hostName $options->{12}\n" if $options->{12};
    print 'leaseSeconds ' . unpack('N', $options->{51}) . "\n";
    print 'mtu ' . unpack('n', $options->{26}) . "\n" if $options->{26};
}

sub options6 {
    my ($data) = @_;
    my %options;
    while (length $data >= 4) {
        my ($code, $length) = unpack 'n n', $data;
        $options{$code} = substr $data, 4, $length;
        $data = substr $data, 4 + $length;
    }
    return \%options;
}

sub dhcp6 {
    open my $file, '<', "/sys/class/net/$link/ifindex" or die "ifindex of $link: $!\n";
    my $index = <$file> + 0;
    my $socket = client_socket(AF_INET6, pack_sockaddr_in6(546, IN6ADDR_ANY));
    my $to = pack_sockaddr_in6(547, inet_pton(AF_INET6, 'ff02::1:2'), $index);
    my $id = int rand 2**24;
    my $duid = pack 'n n a6', 3, 1, $hardware;
    my $ia = pack 'N N N', unpack('x2 N', $hardware), 0, 0;
    my $message = pack('N', 1 << 24 | $id) . join '', map { pack 'n n/a*', @$_ } [1, $duid], [3, $ia], [14, ''], [8, "\0\0"];
    my $reply = exchange($socket, $to, $message, sub {
        my ($answer) = @_;
        return if unpack('N', $answer) != (7 << 24 | $id);
        return options6(substr $answer, 4);
    });
    my $given = options6(substr $reply->{3} // '', 12);
    die "no address on $link\n" if !$given->{5};
    print 'address ' . inet_ntop(AF_INET6, substr $given->{5}, 0, 16) . "\n";
    print 'leaseSeconds ' . unpack('x20 N', $given->{5}) . "\n";
}

if ($family == 4) { dhcp4() }
else { dhcp6() }
