# Says on which processors threads may run (sched_setaffinity(2)), which Node has no call for. Core functions of perl alone.
#
#   perl affinity.pl NUMBER     NUMBER is the system call's
#
# Reads lines "THREAD CPU CPU …" and prints "THREAD ERRNO" for each, 0 where it was done.
use strict;
use warnings;

my $number = shift;
while (my $line = <STDIN>) {
    my ($thread, @cpus) = split ' ', $line;
    next if !defined $thread;
    my $mask = '';
    vec($mask, $_, 1) = 1 for @cpus;
    # The kernel takes whole words.
    $mask .= "\0" x (-length($mask) % 8);
    my $result = syscall $number + 0, $thread + 0, length $mask, $mask;
    print "$thread ", $result == 0 ? 0 : $! + 0, "\n";
}
