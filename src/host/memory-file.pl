# Makes files that exist in memory only and have no name (memfd_create), and closes them to all further writing
# (F_ADD_SEALS), which Node has no calls for. Core functions of perl alone.
#
#   perl memory-file.pl --create NUMBER COUNT   prints "fd N" for each, and keeps them open until its input ends; told
#       "seal N", nobody can write to or resize that file any more, whoever has it open: prints "sealed N"
#   perl memory-file.pl --punch NUMBER PATH BITMAP PAGES COUNT SIZE
#       gives back every page that holds something though the bitmap at byte BITMAP, lowest bit first, has no bit for it:
#       COUNT pages of SIZE bytes from byte PAGES on
#
# NUMBER is the system call's, memfd_create or fallocate. Prints "error ERRNO" and exits with 1 when it fails; a file that
# can't be sealed, "refused N ERRNO", and goes on.
use strict;
use warnings;

# From include/uapi/linux/memfd.h and linux/fcntl.h.
my ($MFD_CLOEXEC, $MFD_ALLOW_SEALING) = (1, 2);
my $F_ADD_SEALS = 1033;
# From include/uapi/linux/falloc.h and linux/fs.h.
my ($FALLOC_FL_KEEP_SIZE, $FALLOC_FL_PUNCH_HOLE) = (1, 2);
my ($SEEK_DATA, $SEEK_HOLE) = (3, 4);
my ($F_SEAL_SEAL, $F_SEAL_SHRINK, $F_SEAL_GROW, $F_SEAL_WRITE) = (1, 2, 4, 8);

$| = 1;

sub fail {
    print 'error ', $! + 0, "\n";
    exit 1;
}

my $verb = shift // '';
if ($verb eq '--create') {
    my ($number, $count) = @ARGV;
    my %files;
    for (1 .. $count) {
        my $name = "lodge\0";
        my $fd = syscall $number + 0, $name, $MFD_CLOEXEC | $MFD_ALLOW_SEALING;
        fail() if $fd < 0;
        open $files{$fd}, '+<&=', $fd or fail();
        print "fd $fd\n";
    }
    while (my $line = <STDIN>) {
        next if $line !~ /^seal (\d+)$/;
        my $seals = $F_SEAL_SEAL | $F_SEAL_SHRINK | $F_SEAL_GROW | $F_SEAL_WRITE;
        print fcntl($files{$1}, $F_ADD_SEALS, $seals) ? "sealed $1\n" : "refused $1 " . ($! + 0) . "\n";
    }
} elsif ($verb eq '--punch') {
    my ($number, $path, $bitmap_at, $pages_at, $count, $size) = @ARGV;
    open my $file, '+<:raw', $path or fail();
    sysseek $file, $bitmap_at, 0 or fail();
    my $bytes = int(($count + 7) / 8);
    my $bits = '';
    while (length $bits < $bytes) { sysread $file, $bits, $bytes - length $bits, length $bits or fail() }
    # What lies behind the last page is nobody's business here.
    vec($bits, $_, 1) = 1 for $count .. 8 * $bytes - 1;
    my $punched = 0;
    my $punch = sub {
        my ($first, $last) = @_;
        my $length = ($last - $first + 1) * $size;
        syscall($number + 0, fileno $file, $FALLOC_FL_PUNCH_HOLE | $FALLOC_FL_KEEP_SIZE, $pages_at + $first * $size, $length)
          == 0
          or fail();
        $punched += $last - $first + 1;
    };
    my $end = $pages_at + $count * $size;
    for (my $at = $pages_at; $at < $end;) {
        $at = sysseek $file, $at, $SEEK_DATA or last;
        last if $at >= $end;
        my $stop = sysseek $file, $at, $SEEK_HOLE or fail();
        $stop = $end if $stop > $end;
        my ($from, $to) = (int(($at - $pages_at) / $size), int(($stop - 1 - $pages_at) / $size));
        $at = $stop;
        # Byte by byte, and only those that are not full: most are.
        pos($bits) = int($from / 8);
        while ($bits =~ /[^\xff]/g) {
            my $byte = pos($bits) - 1;
            last if $byte * 8 > $to;
            for my $page ($byte * 8 .. $byte * 8 + 7) {
                $punch->($page, $page) if $page >= $from && $page <= $to && !vec $bits, $page, 1;
            }
        }
    }
    print "punched $punched\n";
} else {
    die "memory-file.pl: --create or --punch\n";
}
