# For each line on its input, "facts TAB field": whether packages fulfil a dependency field, by
# dpkg's own Perl library. Facts are "name version name=version…" between semicolons: a package
# and what it provides. Prints true, false or invalid, and how the field reads.
use strict;
use warnings;
use Dpkg::Deps;

$SIG{__WARN__} = sub { };
open(STDERR, '>', '/dev/null');
while (my $line = <STDIN>) {
    chomp $line;
    my ($known, $field) = split /\t/, $line, 2;
    my $facts = Dpkg::Deps::KnownFacts->new();
    for my $package (split /;/, $known) {
        my ($name, $version, @provided) = split / /, $package;
        $facts->add_installed_package($name, $version, 'amd64', 'allowed');
        for my $virtual (@provided) {
            my ($what, $as) = split /=/, $virtual;
            $facts->add_provided_package($what, defined $as ? '=' : undef, $as, $name);
        }
    }
    # A version that is none is found only when it is compared, and then it is fatal.
    my ($answer, $shown) = eval { ask($facts, $field) };
    print defined $answer ? "$answer\t$shown\n" : "invalid\t\n";
}

sub ask {
    my ($facts, $field) = @_;
    my $needed = deps_parse($field, host_arch => 'amd64', build_arch => 'amd64', build_dep => 1,
        use_profiles => 0);
    return if not defined $needed;
    my $wanted = deps_parse($field, host_arch => 'amd64', build_arch => 'amd64', build_dep => 1,
        use_profiles => 0, reduce_arch => 1);
    return ($wanted->get_evaluation($facts) ? 'true' : 'false', $needed->output());
}
