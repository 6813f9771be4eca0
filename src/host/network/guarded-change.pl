# Makes a change of the machine's links, and puts it back unless somebody confirms it in time: the change may cut off
# whoever would have to say so, and the process that asked for it may have died. Core functions of perl alone.
#
#   perl guarded-change.pl FOLDER SECONDS
#
# FOLDER has `apply` and `revert`, lines for `ip -batch`, and `waiting`. Prints "applied", or "failed" once everything is
# put back. Who takes the change for good renames `waiting`; who renames it first, wins, so that it is never both.
# With 0 seconds nobody is waited for.
use strict;
use warnings;
use POSIX qw(setsid);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC sleep);

my ($folder, $seconds) = @ARGV;
chdir $folder or die "$folder: $!\n";
setsid;
# The terminal or connection that began it may be what the change ends.
$SIG{$_} = 'IGNORE' for qw(HUP INT TERM PIPE);
$| = 1;

sub revert {
    # Line by line: what was not done yet can't be undone, and must not keep the rest from being so.
    system 'ip', '-force', '-batch', 'revert';
    rename 'reverting', 'reverted';
}

if (system('ip', '-batch', 'apply') != 0) {
    revert() if rename 'waiting', 'reverting';
    print "failed\n";
    exit 1;
}
if ($seconds == 0) {
    rename 'waiting', 'confirmed';
    print "applied\n";
    exit 0;
}
print "applied\n";
close STDOUT;
my $until = clock_gettime(CLOCK_MONOTONIC) + $seconds;
while (clock_gettime(CLOCK_MONOTONIC) < $until) {
    exit 0 if !-e 'waiting';
    sleep 0.1;
}
revert() if rename 'waiting', 'reverting';
