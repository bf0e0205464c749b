package DisbatchPlugin;

# Write a Disbatch plugin in Perl: one function, called for each task, in oneshot and in worker mode.
#
#     use FindBin; use lib $FindBin::Bin;
#     use DisbatchPlugin;
#
#     DisbatchPlugin::run(sub {
#         my ($task) = @_;
#         $task->progress(0.5, 'half of it');
#         print "Hello, $task->{parameters}{name}\n";
#         $task->result({ greeted => $task->{parameters}{name} });
#         return 0;
#     });
#
# What the function returns is the exit code (nothing: 0). A die is a failure: its message becomes the task's error.
# Whatever is printed becomes the task's output, as UTF-8.
#
# One file, nothing but Perl's own modules, Perl 5.14 and up (Debian: the package perl): copy it beside your program. Run by
# hand, without a host, the plugin reads one line of JSON from stdin and shows its events on stderr.

use strict;
use warnings;
use IO::Handle;
use JSON::PP ();

our $VERSION = '0.1.0';
my $PROTOCOL = 1;

# Text in, bytes out: what is sent is UTF-8 once and not twice. Canonical, so that the same event is the same line.
my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my $events;

# Call $work->($task) for the task (oneshot mode) or for each task in turn (worker mode), then end the process.
sub run {
    my ($work) = @_;
    binmode STDIN;
    binmode $_, ':encoding(UTF-8)' for *STDOUT, *STDERR;
    STDOUT->autoflush(1);
    STDERR->autoflush(1);
    if (my $descriptor = $ENV{DISBATCH_EVENT_FD}) {
        open $events, '>&=', $descriptor or die "descriptor $descriptor for events is not open: $!\n";
        binmode $events;
        $events->autoflush(1);
    }
    _serve($work) if ($ENV{DISBATCH_MODE} // '') eq 'worker';
    my $line = <STDIN>;
    my $document = defined $line ? $json->decode($line) : {};
    exit _perform($work, __PACKAGE__->_task($document, $ENV{DISBATCH_ATTEMPT} || 1, $ENV{DISBATCH_DEADLINE}));
}

# The task is a hash: id, queue, parameters, attempt (1 for the first), deadline (Unix seconds or undef), and document: all
# that the host has given (see the plugin protocol).
sub _task {
    my ($class, $document, $attempt, $deadline) = @_;
    return bless {
        document   => $document,
        id         => $document->{_id},
        queue      => $document->{queue},
        parameters => $document->{parameters} // {},
        attempt    => $attempt + 0,
        deadline   => defined $deadline ? $deadline + 0 : undef,
    }, $class;
}

# How far it is: $value from 0 to 1, or undef; $message for people.
sub progress {
    my ($self, $value, $message) = @_;
    _send({ type => 'progress', value => defined $value ? $value + 0 : undef, _given(message => $message) });
    return;
}

# A line for the task's log. $level: debug, info, warning or error.
sub log {    ## no critic (the protocol's own name; always called as a method)
    my ($self, $message, $level, $fields) = @_;
    _send({ type => 'log', level => $level // 'info', message => "$message", _given(fields => $fields) });
    return;
}

# From 2 on: the task fails with this status, also with exit 0; 0 takes it back.
sub status {
    my ($self, $status) = @_;
    _send({ type => 'status', status => $status + 0 });
    return;
}

# Set free fields of the task document.
sub set {
    my ($self, $fields) = @_;
    _send({ type => 'set', fields => $fields });
    return;
}

# What came of it, as JSON of at most 1 MiB; the last one counts. With $status the task fails with it.
sub result {
    my ($self, $value, $status) = @_;
    _send({ type => 'result', value => $value, defined $status ? (status => $status + 0) : () });
    return;
}

# Why it fails. %more: code, detail, retry (whether another attempt makes sense).
sub error {
    my ($self, $message, %more) = @_;
    my $retry = defined $more{retry} ? ($more{retry} ? JSON::PP::true() : JSON::PP::false()) : undef;
    _send({
        type => 'error', message => "$message",
        _given(code => $more{code}), _given(detail => $more{detail}), _given(retry => $retry),
    });
    return;
}

# With exit code 0: run it again in so many seconds, without using an attempt.
sub snooze {
    my ($self, $seconds, $message) = @_;
    _send({ type => 'snooze', seconds => $seconds + 0, _given(message => $message) });
    return;
}

# Tasks to be created once this one has succeeded: { queue => ..., parameters => {...} } each.
sub follow_up {
    my ($self, @tasks) = @_;
    _send({ type => 'tasks', tasks => \@tasks });
    return;
}

sub _given {
    my ($name, $value) = @_;
    return defined $value ? ($name => $value) : ();
}

sub _send {
    my ($event) = @_;
    my $line = $json->encode($event) . "\n";
    if ($events) {
        print {$events} $line or die "an event could not be sent: $!\n";
    }
    else {
        utf8::decode($line);
        print STDERR "event: $line";
    }
    return;
}

sub _serve {
    my ($work) = @_;
    my $hello = <STDIN>;
    _send({ type => 'ready', protocol => $PROTOCOL });
    while (defined(my $line = <STDIN>)) {
        my $message = $json->decode($line);
        next if $message->{type} ne 'task';    # of a later version of the protocol
        my $task = __PACKAGE__->_task($message->{task}, $message->{attempt}, $message->{deadline});
        my $exit = _perform($work, $task);
        _send({ type => 'done', exit => $exit, task => $task->{id} });
    }
    exit 0;
}

sub _perform {
    my ($work, $task) = @_;
    my $exit = eval { $work->($task) };
    if (my $error = $@) {
        chomp $error;
        print STDERR "$error\n";
        $task->error($error, code => 'exception');
        return 1;
    }
    return (defined $exit && $exit =~ /\A[0-9]+\z/ ? $exit : 0) & 0xff;
}

1;
