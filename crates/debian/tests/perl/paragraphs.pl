# Reads control texts that are separated by lines of "%%" and prints the fields of the first
# paragraph of each as dpkg's own Perl library reads it: name, a tab, the lines of the value with
# "|" between them. "invalid" if it is none.
use strict;
use warnings;
use Dpkg::Control;

open(STDERR, '>', '/dev/null');
my $all = do { local $/; <STDIN> };
for my $text (split /^%%\n/m, $all, -1) {
    my $paragraph = Dpkg::Control->new(type => CTRL_UNKNOWN);
    open(my $handle, '<', \$text) or die;
    my $read = eval { $paragraph->parse($handle, 'text') };
    if (not $read) {
        print "invalid\n%%\n";
        next;
    }
    for my $name (keys %$paragraph) {
        my $value = join '|', map { s/^\s+|\s+$//gr } split /\n/, $paragraph->{$name}, -1;
        print "$name\t$value\n";
    }
    print "%%\n";
}
