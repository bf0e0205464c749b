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
# What the function returns is the exit code, 0 to 255 (nothing: 0). A die is a failure: its message becomes the task's
# error, after the class if it is an object. Any other return value is a failure too, as is an event that JSON cannot represent. Printed text becomes the
# task's output, as UTF-8; invalid Unicode in an event becomes U+FFFD.
#
# One file, nothing but Perl's own modules, Perl 5.14 and up (Debian: the package perl): copy it beside your program. Run by
# hand, without a host, the plugin reads one line of JSON from stdin and shows its events on stderr.

use strict;
use warnings;
use IO::Handle;
use JSON::PP ();
use overload ();
use Scalar::Util ();

our $VERSION = '0.1.0';
my $PROTOCOL = 1;

my $reader = JSON::PP->new->utf8->allow_nonref;
my $writer = JSON::PP->new->canonical->allow_nonref;    # canonical: the same event gives the same line
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
    my $document = defined $line ? $reader->decode($line) : {};
    exit _perform($work, __PACKAGE__->_task($document, $ENV{DISBATCH_ATTEMPT} || 1, $ENV{DISBATCH_DEADLINE}));
}

# The task is a hash: id, queue, parameters, attempt (1 for the first), deadline (Unix seconds or undef), and document:
# everything from the host (see the plugin protocol).
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

# Report progress: $value from 0 to 1, or undef; $message for people.
sub progress {
    my ($self, $value, $message) = @_;
    _send({ type => 'progress', value => defined $value ? $value + 0 : undef, _text(message => $message) });
    return;
}

# Add a line to the task's log. $level: debug, info, warning or error.
sub log {    ## no critic (the protocol's own name; always called as a method)
    my ($self, $message, $level, $fields) = @_;
    _send({ type => 'log', level => $level // 'info', message => "$message", _given(fields => $fields) });
    return;
}

# Fail with this status (2 and up), even with exit code 0; 0 takes it back.
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

# Give the task's result, as JSON of at most 1 MiB; the last one counts. With $status, fail with it.
sub result {
    my ($self, $value, $status) = @_;
    _send({ type => 'result', value => $value, defined $status ? (status => $status + 0) : () });
    return;
}

# Give the reason for a failure. %more: code, detail, retry (whether another attempt makes sense).
sub error {
    my ($self, $message, %more) = @_;
    my $retry = defined $more{retry} ? ($more{retry} ? JSON::PP::true() : JSON::PP::false()) : undef;
    _send({
        type => 'error', message => "$message",
        _text(code => $more{code}), _text(detail => $more{detail}), _given(retry => $retry),
    });
    return;
}

# With exit code 0: run again in this many seconds, without using an attempt.
sub snooze {
    my ($self, $seconds, $message) = @_;
    _send({ type => 'snooze', seconds => $seconds + 0, _text(message => $message) });
    return;
}

# Create tasks once this one has succeeded: { queue => ..., parameters => {...} } each.
sub follow_up {
    my ($self, @tasks) = @_;
    _send({ type => 'tasks', tasks => \@tasks });
    return;
}

sub _given {
    my ($name, $value) = @_;
    return defined $value ? ($name => $value) : ();
}

sub _text {
    my ($name, $value) = @_;
    return defined $value ? ($name => "$value") : ();    # text, even if it was a number
}

sub _send {
    my ($event) = @_;
    my $line = _line($event);
    if ($events) {
        utf8::encode($line);
        print {$events} $line or die "an event could not be sent: $!\n";
    }
    else {
        print STDERR "event: $line";
    }
    return;
}

# The event as text. JSON::PP writes NaN and infinities as they are, which is not valid JSON.
sub _line {
    my ($event) = @_;
    my $line = eval { $writer->encode($event) };
    if (!defined $line) {
        (my $why = "$@") =~ s/ at \S+ line [0-9]+\.?\n\z//;
        die "the $event->{type} event cannot be written as JSON: $why\n";
    }
    if ($line =~ /nan|inf/i) {
        (my $bare = $line) =~ s/\\.//gs;
        $bare =~ s/"[^"]*"//g;
        die "the $event->{type} event cannot be written as JSON: it holds a number that is $1\n"
            if $bare =~ /(-?(?:nan|inf)[a-z]*)/i;
    }
    $line =~ s/[\x{D800}-\x{DFFF}]|[^\x{0}-\x{10FFFF}]/\x{FFFD}/g;    # neither can be written as UTF-8
    return "$line\n";
}

sub _serve {
    my ($work) = @_;
    my $hello = <STDIN>;
    _send({ type => 'ready', protocol => $PROTOCOL });
    while (defined(my $line = <STDIN>)) {
        my $message = $reader->decode($line);
        next if $message->{type} ne 'task';    # from a later version of the protocol
        my $task = __PACKAGE__->_task($message->{task}, $message->{attempt}, $message->{deadline});
        my $exit = _perform($work, $task);
        _send({ type => 'done', exit => $exit, task => $task->{id} });
    }
    exit 0;
}

sub _perform {
    my ($work, $task) = @_;
    my $exit = eval {
        my $returned = $work->($task);
        $returned = 0 if !defined $returned || $returned eq '';    # nothing, or Perl's own false
        die "expected the function to return an exit code from 0 to 255 or nothing, found '$returned'; end it with return 0\n"
            if $returned !~ /\A[0-9]{1,3}\z/ || $returned > 255;
        $returned + 0;
    };
    return $exit if defined $exit;
    my $error = _in_words($@);
    print STDERR "$error\n";
    $task->error($error, code => 'exception');
    return 1;
}

# An object says its class, and then its message: as a text by itself it may be `My::Error=HASH(0x55…)`, different each time.
sub _in_words {
    my ($error) = @_;
    my $class = Scalar::Util::blessed($error);
    my $text = '';
    if (!ref $error) {
        $text = $error;
    } elsif (!defined $class) {
        $text = eval { $writer->encode($error) } // ref $error;    # die { code => 7 }
    } elsif (overload::Method($error, '""')) {
        $text = eval { "$error" } // '';
    } elsif ($error->can('message')) {
        $text = eval { $error->message } // '';
    }
    chomp $text;
    return $class . ($text eq '' ? '' : ": $text") if defined $class;
    return $text eq '' ? 'died without a message' : $text;
}

1;
