//! How often judges may be wrong: `make simulate-judge` counts more exactly, this keeps it so.

use volary_simulate::judges::{Shape, leaks_found, promotions_stopped};

const SEED: u64 = 11;

#[test]
fn what_does_not_leak_is_called_a_leak_in_at_most_one_of_a_hundred() {
    for shape in [Shape::Flat, Shape::DayCycle, Shape::SawTooth, Shape::WarmUp, Shape::Step] {
        let share = leaks_found(shape, 0.0, 500, SEED);
        assert!(share <= 0.01, "{shape:?}: {share}");
    }
}

#[test]
fn leaks_are_found_within_a_week() {
    for shape in [Shape::Flat, Shape::DayCycle, Shape::SawToothOfHalfADay, Shape::WarmUpOfADay] {
        let share = leaks_found(shape, 0.1, 200, SEED);
        assert!(share >= 0.95, "{shape:?}: {share}");
    }
    let share = leaks_found(Shape::Flat, 0.05, 200, SEED);
    assert!(share > 0.86, "{share}");
}

#[test]
fn five_canaries_are_enough_for_ten_percent() {
    let (false_alarms, found) = (promotions_stopped(0.0, 200, SEED), promotions_stopped(0.1, 100, SEED));
    assert!(false_alarms <= 0.02 && found >= 0.9, "{false_alarms} {found}");
}
