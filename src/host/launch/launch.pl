# Prepares a process that only Linux system calls can prepare, then becomes the program it was asked to start.
# Node has no ioctl and can't place a descriptor at a given number, so launch.ts starts this. It needs perl-base
# alone (core functions, no module) and promises: the pid never changes (everything happens by exec in place),
# and the started program holds standard input, output and error, the descriptors that were asked for, and nothing else.
#
#   perl launch.pl --report FD [--cgroup FILE]... [--oom N] [--cwd DIR]
#                  [--tap FD NAME 0|1]... [--file FD MODE PATH]...
#                  [--folder FD|MOUNTPOINT ro|rw UID GID PATH]... -- WRAPPER... -- PROGRAM...
#
# A folder comes as a mount of its own: nothing mounted below it is in it, no link in it is followed, and what belongs to
# the folder's owner belongs to UID in it (an idmapped mount, mount_setattr(2)). It is passed as a descriptor, or mounted
# where only the program sees it.
#
#   perl launch.pl --send SOCKET --sendmsg NUMBER [--tap INDEX NAME 0|1]... [--file INDEX MODE PATH]...
#
# The second form opens the same things and hands them to a running QEMU instead, over its monitor (see
# send-descriptors.ts): its report goes to standard output, what it is to say comes by standard input.
#
# The report descriptor gets one line each: "step NAME INDEX" before a step, "error ERRNO" when it failed, and
# "exec" as the last one before the program itself is executed. It closes on exec: the end of the stream after
# "exec" without an "error" means that the program runs.
use strict;
use warnings;

# From include/uapi/asm-generic/fcntl.h, linux/fcntl.h, linux/if_tun.h. MIPS, PowerPC and SPARC number some of
# them otherwise; Lodge runs on none of these.
my ($F_DUPFD, $F_SETFD, $F_DUPFD_CLOEXEC) = (0, 2, 1030);
my ($O_RDONLY, $O_WRONLY, $O_RDWR, $O_DIRECT, $O_CLOEXEC) = (0, 1, 2, 040000, 02000000);
my %open_mode = (
    ro => $O_RDONLY, wo => $O_WRONLY, rw => $O_RDWR,
    'ro-direct' => $O_RDONLY | $O_DIRECT, 'rw-direct' => $O_RDWR | $O_DIRECT,
);
my ($TUNSETIFF, $TUNGETIFF) = (0x400454ca, 0x800454d2);
my ($IFF_TAP, $IFF_MULTI_QUEUE, $IFF_PERSIST, $IFF_NO_PI, $IFF_VNET_HDR) = (0x2, 0x100, 0x800, 0x1000, 0x4000);
my ($EPERM, $ENODEV, $EINVAL, $EBADF, $ECONNRESET) = (1, 19, 22, 9, 104);
# From include/uapi/linux: fcntl.h, openat2.h, mount.h, sched.h. System calls from 424 on have one number everywhere; the
# two older ones are those of x86-64.
my ($O_DIRECTORY, $O_PATH, $AT_FDCWD, $AT_EMPTY_PATH) = (0200000, 010000000, -100, 0x1000);
my ($RESOLVE_NO_MAGICLINKS, $RESOLVE_NO_SYMLINKS, $OPEN_TREE_CLONE) = (0x02, 0x04, 1);
my ($ATTR_RDONLY, $ATTR_NOSUID, $ATTR_NODEV, $ATTR_NOEXEC, $ATTR_IDMAP, $ATTR_NOSYMFOLLOW) =
    (0x1, 0x2, 0x4, 0x8, 0x100000, 0x200000);
my ($CLONE_NEWNS, $CLONE_NEWUSER, $MS_REC, $MS_PRIVATE, $MOVE_MOUNT_F_EMPTY_PATH) =
    (0x20000, 0x10000000, 0x4000, 0x40000, 4);
my ($SYS_mount, $SYS_unshare) = (165, 272);
my ($SYS_open_tree, $SYS_move_mount, $SYS_openat2, $SYS_mount_setattr) = (428, 429, 437, 442);

my $report;

sub fail {
    syswrite $report, "error $_[0]\n";
    exit 125;
}

sub step {
    syswrite $report, "step $_[0] $_[1]\n";
}

# Each of these is [what, its index in the caller's list, descriptor, ...], in the order of the command line.
my (@cgroups, @opens, @mounts, $oom, $cwd, $send, $sendmsg);
my $report_fd;
my %count = (cgroup => 0, tap => 0, file => 0, folder => 0);
while (@ARGV) {
    my $option = shift;
    if ($option eq '--report') { $report_fd = shift }
    elsif ($option eq '--cgroup') { push @cgroups, shift }
    elsif ($option eq '--oom') { $oom = shift }
    elsif ($option eq '--cwd') { $cwd = shift }
    elsif ($option eq '--tap') { push @opens, ['tap', $count{tap}++, splice @ARGV, 0, 3] }
    elsif ($option eq '--file') { push @opens, ['file', $count{file}++, splice @ARGV, 0, 3] }
    elsif ($option eq '--folder') {
        my $folder = ['folder', $count{folder}++, splice @ARGV, 0, 5];
        push @{$folder->[2] =~ m{^/} ? \@mounts : \@opens}, $folder;
    }
    elsif ($option eq '--send') { $send = shift }
    elsif ($option eq '--sendmsg') { $sendmsg = shift }
    elsif ($option eq '--') { last }
    else { die "launch.pl: unknown option $option\n" }
}

sub open_tap {
    my ($name, $is_multi_queue) = @_;
    my $is_macvtap = $name =~ m{^/};
    sysopen my $tun, $is_macvtap ? $name : '/dev/net/tun', $O_RDWR | $O_CLOEXEC or fail($! + 0);
    my $flags = $IFF_TAP | $IFF_NO_PI | $IFF_VNET_HDR | ($is_multi_queue ? $IFF_MULTI_QUEUE : 0);
    my $request = pack 'a16 S x22', $is_macvtap ? '' : $name, $flags;
    ioctl $tun, $TUNSETIFF, $request or fail($! + 0);
    # A macvtap has a device of its own, which is there as long as its link.
    return $tun if $is_macvtap;
    # A name that does not exist is created on the spot. Only a persistent link was made by somebody on purpose;
    # the other vanishes with this descriptor.
    my $state = pack 'x40';
    ioctl $tun, $TUNGETIFF, $state or fail($! + 0);
    fail($ENODEV) if !((unpack 'x16 S', $state) & $IFF_PERSIST);
    return $tun;
}

# A user namespace in which an id of the file system stands for an id of the program. It lives by the handle alone.
sub id_map {
    my ($uid, $to_uid, $gid, $to_gid) = @_;
    pipe my $is_made, my $made or fail($! + 0);
    pipe my $is_done, my $done or fail($! + 0);
    my $child = fork;
    fail($! + 0) if !defined $child;
    if (!$child) {
        close $done;
        close $is_made;
        alarm 10;
        syswrite $made, syscall($SYS_unshare, $CLONE_NEWUSER) == 0 ? "0\n" : ($! + 0) . "\n";
        sysread $is_done, my $nothing, 1;    # Ends with the parent's own end of the pipe.
        exit 0;
    }
    close $is_done;
    close $made;
    my $answer;
    my $failed = sysread($is_made, $answer, 16) ? $answer + 0 : $EINVAL;
    my $namespace;
    if (!$failed) {
        for (["/proc/$child/uid_map", "$uid $to_uid 1\n"], ["/proc/$child/gid_map", "$gid $to_gid 1\n"]) {
            my ($file, $line) = @$_;
            sysopen my $map, $file, $O_WRONLY | $O_CLOEXEC or $failed = $! + 0;
            $failed ||= (defined syswrite $map, $line) ? 0 : $! + 0 if defined $map;
        }
        sysopen $namespace, "/proc/$child/ns/user", $O_RDONLY | $O_CLOEXEC or $failed ||= $! + 0;
    }
    close $done;
    waitpid $child, 0;
    fail($failed) if $failed;
    return $namespace;
}

sub open_folder {
    my ($access, $to_uid, $to_gid, $path) = @_;
    my ($name, $empty) = ("$path\0", "\0");
    my $how = pack 'QQQ', $O_PATH | $O_DIRECTORY | $O_CLOEXEC, 0, $RESOLVE_NO_SYMLINKS | $RESOLVE_NO_MAGICLINKS;
    my $found = syscall $SYS_openat2, $AT_FDCWD, $name, $how, length $how;
    fail($! + 0) if $found < 0;
    open my $directory, '<&=', $found or fail($! + 0);
    my (undef, undef, undef, undef, $uid, $gid) = stat $directory or fail($! + 0);
    # What a guest writes would be programs of root's.
    fail($EPERM) if $access ne 'ro' && $uid == 0;
    my $tree = syscall $SYS_open_tree, $found, $empty, $AT_EMPTY_PATH | $OPEN_TREE_CLONE | $O_CLOEXEC;
    fail($! + 0) if $tree < 0;
    open my $mount, '<&=', $tree or fail($! + 0);
    my $map = id_map($uid, $to_uid + 0, $gid, $to_gid + 0);
    my $set = $ATTR_NOSUID | $ATTR_NODEV | $ATTR_NOEXEC | $ATTR_NOSYMFOLLOW | $ATTR_IDMAP;
    $set |= $ATTR_RDONLY if $access eq 'ro';
    my $attributes = pack 'QQQQ', $set, 0, 0, fileno $map;
    my $is_set = syscall $SYS_mount_setattr, $tree, $empty, $AT_EMPTY_PATH, $attributes, length $attributes;
    fail($! + 0) if $is_set < 0;
    return $mount;
}

sub open_asked {
    my ($kind, $index, $target, $first, $second, @more) = @{$_[0]};
    step($kind, $index);
    return open_tap($first, $second) if $kind eq 'tap';
    return open_folder($first, $second, @more) if $kind eq 'folder';
    sysopen my $file, $second, $open_mode{$first} | $O_CLOEXEC or fail($! + 0);
    return $file;
}

# Each line of input is "INDEX|-" "ok|failed" COMMAND: a command of QMP, with the descriptor of this index, sent when
# all before it went well, or only after one failed. Each answer is reported as "reply JSON"; events are passed over.
sub send_all {
    $report = \*STDOUT;
    my @handles;
    $handles[$_->[2]] = open_asked($_) for @opens;
    step('socket', 0);
    socket my $socket, 1, 1, 0 or fail($! + 0);    # AF_UNIX, SOCK_STREAM
    connect $socket, pack 'S a*', 1, "$send\0" or fail($! + 0);
    my $buffer = '';
    my $answer = sub {
        my ($wanted) = @_;
        for (;;) {
            while ($buffer =~ s/^(.*?)\r?\n//) { my $line = $1; return $line if $line =~ $wanted }
            my $got = sysread $socket, $buffer, 65536, length $buffer;
            fail($! + 0) if !defined $got;
            fail($ECONNRESET) if !$got;
        }
    };
    $answer->(qr/^\{"QMP"/);
    my ($number, $is_ok) = (0, 1);
    while (my $input = <STDIN>) {
        chomp $input;
        my ($index, $when, $command) = split / /, $input, 3;
        next if ($when eq 'ok') != $is_ok;
        step('command', $number++);
        my $data = "$command\n";
        my $vector = pack 'P Q', $data, length $data;
        # struct cmsghdr with one descriptor: SOL_SOCKET, SCM_RIGHTS; then struct msghdr (64 bit).
        my $control = $index eq '-' ? '' : pack 'Q l l l x4', 20, 1, 1, fileno $handles[$index];
        my $message = pack 'Q L x4 P Q P Q l x4', 0, 0, $vector, 1, $control, length $control, 0;
        my $sent = syscall $sendmsg + 0, fileno $socket, $message, 0x4000;    # MSG_NOSIGNAL
        fail($! + 0) if $sent < 0;
        fail($ECONNRESET) if $sent != length $data;
        my $reply = $answer->(qr/^\{"(return|error)"/);
        $is_ok = 0 if $reply =~ /^\{"error"/;
        syswrite $report, "reply $reply\n";
    }
}

if (defined $send) {
    send_all();
    exit 0;
}

die "launch.pl: nothing to execute\n" if !defined $report_fd || !@ARGV;

# The report moves above every descriptor that is asked for, so that it stands in nobody's place.
my $top = 2;
for my $open (@opens) {
    $open->[2] += 0;    # fcntl takes a number as a value, a string as a buffer.
    $top = $open->[2] if $open->[2] > $top;
}
$^F = 1_000_000;    # Perl must not set close-on-exec behind our back; it is set here where it belongs.
{
    open my $given, '>&=', $report_fd or die "launch.pl: report descriptor $report_fd: $!\n";
    my $high = fcntl $given, $F_DUPFD_CLOEXEC, $top + 1 or die "launch.pl: report descriptor: $!\n";
    close $given;
    open $report, '>&=', $high or die "launch.pl: report descriptor: $!\n";
}

# Whatever else was inherited is closed.
step('descriptors', 0);
opendir my $listing, '/proc/self/fd' or fail($! + 0);
my @inherited = grep { /^\d+$/ && $_ > 2 && $_ != fileno $report } readdir $listing;
closedir $listing;
for my $fd (@inherited) {
    # The listing's own descriptor is among them and already gone: that one does not open.
    open my $handle, '<&=', $fd or next;
    close $handle;
}

for my $index (0 .. $#cgroups) {
    step('cgroup', $index);
    sysopen my $procs, $cgroups[$index], 1 | $O_CLOEXEC or fail($! + 0);
    defined syswrite $procs, $$ or fail($! + 0);
    close $procs;
}

if (defined $oom) {
    step('oom', 0);
    sysopen my $adjust, '/proc/self/oom_score_adj', 1 | $O_CLOEXEC or fail($! + 0);
    defined syswrite $adjust, $oom or fail($! + 0);
    close $adjust;
}

# Every descriptor is opened above the wanted range first, then put in its place: no order of numbers can collide.
my @placed;
for my $open (@opens) {
    my ($kind, $index, $target) = @$open;
    my $handle = open_asked($open);
    my $high = fcntl $handle, $F_DUPFD_CLOEXEC, $top + 1 or fail($! + 0);
    close $handle;
    open $handle, '<&=', $high or fail($! + 0);
    push @placed, [$kind, $index, $target, $handle];
}
for my $placed (@placed) {
    my ($kind, $index, $target, $handle) = @$placed;
    step($kind, $index);
    my $got = fcntl $handle, $F_DUPFD, $target or fail($! + 0);
    fail($EBADF) if $got != $target;
    close $handle;
}

for my $folder (@mounts) {
    my $handle = open_asked($folder);
    my ($none, $root, $empty, $target) = ("none\0", "/\0", "\0", "$folder->[2]\0");
    # Nobody else sees the mount, and it goes with the program.
    if ($folder == $mounts[0]) {
        syscall($SYS_unshare, $CLONE_NEWNS) == 0 or fail($! + 0);
        syscall($SYS_mount, $none, $root, $empty, $MS_REC | $MS_PRIVATE, $empty) == 0 or fail($! + 0);
    }
    my $from = fileno $handle;
    syscall($SYS_move_mount, $from, $empty, $AT_FDCWD, $target, $MOVE_MOUNT_F_EMPTY_PATH) == 0 or fail($! + 0);
    close $handle;
}

if (defined $cwd) {
    step('cwd', 0);
    chdir $cwd or fail($! + 0);
}
umask 077;

# Standing between the wrapper (setpriv, which drops what this process may do) and the program: without it nobody
# could tell a program that does not exist from one that runs. It is a string because the unprivileged user need
# not be able to read this file. It runs as that user.
my $last = 'my $n = shift; $^F = 1000000; open my $r, ">&=", $n or exit 125; fcntl $r, 2, 1; '
  . 'syswrite $r, "step program 0\nexec\n"; { no warnings; exec { $ARGV[0] } @ARGV } '
  . 'my $e = $! + 0; syswrite $r, "error $e\n"; exit 125;';
my $separator = 0;
$separator++ while $separator < @ARGV && $ARGV[$separator] ne '--';
fail($EINVAL) if $separator >= $#ARGV;
my @wrapper = @ARGV[0 .. $separator - 1];
my @program = @ARGV[$separator + 1 .. $#ARGV];

step('confine', 0);
fcntl $report, $F_SETFD, 0 or fail($! + 0);
{
    no warnings;
    exec { $wrapper[0] } @wrapper, $^X, '-e', $last, fileno $report, @program;
}
fail($! + 0);
