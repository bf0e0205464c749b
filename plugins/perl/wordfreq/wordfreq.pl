#!/usr/bin/env perl
# Lists the most frequent words of a text file. Exit 3: the file cannot be read.
use strict;
use warnings;

use Encode qw(decode encode FB_CROAK LEAVE_SRC);
use JSON::PP;    # part of Perl itself; on Debian, perl-base lacks it, which the manifest's "requires" detects

my $UNREADABLE = 3;
my $MAX_LENGTH = 64;                            # longer ones are data, not words; an event holds 1 MiB
my $JSON       = JSON::PP->new->utf8->canonical;
my $WORD       = qr/\p{Alphabetic}[\p{Alphabetic}\p{Mark}\p{Nd}_]*(?:['\x{2019}]\p{Alphabetic}+)*/;

my $parameters = $JSON->decode(scalar readline STDIN)->{parameters};
my $path       = encode('UTF-8', $parameters->{path});    # file names are bytes

# The schema's defaults: the host fills them in, a run by hand does not.
my $top        = $parameters->{top}        // 10;
my $min_length = $parameters->{min_length} // 3;

my ($total, %count) = (0);
-d $path and unreadable('it is a directory');
{
    no warnings 'syscalls';                               # a name with a null character: the reason is in $!
    open my $file, '<:raw', $path or unreadable($!);
    while (defined(my $line = readline $file)) {
        for my $word (text_of($line) =~ /$WORD/g) {
            next if length $word < $min_length || length $word > $MAX_LENGTH;
            $count{ lc $word }++;
            $total++;
        }
    }
    close $file or unreadable($!);
}

my @words = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
my $distinct = @words;
splice @words, $top if @words > $top;

print "$path: $total words of at least $min_length letters, $distinct different\n";
printf "%8d  %s\n", $count{$_}, encode('UTF-8', $_) for @words;

send_event({
    type  => 'result',
    value => {
        words    => $total,
        distinct => $distinct,
        top      => [map { { word => $_, count => $count{$_} } } @words],
    },
});

# A line as characters: UTF-8 if it is valid, else Latin-1, which accepts any bytes.
sub text_of {
    my ($bytes) = @_;
    return eval { decode('UTF-8', $bytes, FB_CROAK | LEAVE_SRC) } // decode('ISO-8859-1', $bytes);
}

sub unreadable {
    my ($reason) = @_;
    print STDERR "wordfreq: cannot read $path: $reason\n";
    exit $UNREADABLE;
}

# Sends an event on descriptor 3. Without a host there is none, and the program works all the same.
sub send_event {
    my ($event) = @_;
    my $descriptor = $ENV{DISBATCH_EVENT_FD} // return;
    open my $events, '>&=', $descriptor or return;
    print {$events} $JSON->encode($event), "\n";
    close $events;
}
