//! The values of one series in a block.
//!
//! Most measurements are decimals with few digits: counts, bytes in pages, percents. Such a column is
//! whole numbers after a power of ten and a common divisor, as they are, as differences or as
//! differences of differences, whichever is shortest. The rest are bits, each XORed with those before.

use super::bytes::{Damaged, Reader, put, put_signed, signed_len};

/// The most digits behind the point that count as a decimal.
const DIGITS: u8 = 12;

/// The powers of ten for so many digits, all of them exact.
const SCALES: [f64; DIGITS as usize + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12];

/// Whole numbers up to here are exact in a floating point number.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// How a column is written: the lower two bits of its first byte. The upper ones are the digits.
const PLAIN: u8 = 0;
const DIFFERENCES: u8 = 1;
const SECOND_DIFFERENCES: u8 = 2;
const BITS: u8 = 3;

/// Appends a column. Values are finite.
pub(crate) fn encode(values: &[f64], out: &mut Vec<u8>) {
    let Some((digits, mut numbers)) = whole(values) else {
        out.push(BITS);
        let mut before = 0_u64;
        for value in values {
            // Neighbours share sign, exponent and the first digits: the upper bits become zero.
            put(out, value.to_bits() ^ before);
            before = value.to_bits();
        }
        return;
    };
    let divisor = divisor(&numbers);
    if divisor > 1 {
        for number in &mut numbers {
            *number /= i64::try_from(divisor).expect("it divides a number of 54 bits");
        }
    }
    let first = differences(&numbers);
    let second = differences(&first);
    let length = |numbers: &[i64]| numbers.iter().map(|number| signed_len(*number)).sum::<usize>();
    let ways = [(PLAIN, &numbers), (DIFFERENCES, &first), (SECOND_DIFFERENCES, &second)];
    let (way, numbers) =
        ways.into_iter().min_by_key(|(_, numbers)| length(numbers)).expect("there are three");
    out.push(way | digits << 2);
    put(out, divisor);
    for number in numbers {
        put_signed(out, *number);
    }
}

/// Reads a column of `count` values.
pub(crate) fn decode(reader: &mut Reader<'_>, count: usize) -> Result<Vec<f64>, Damaged> {
    let mut values = Vec::with_capacity(count);
    decode_into(reader, count, &mut values)?;
    Ok(values)
}

/// The same, behind other values.
pub(crate) fn decode_into(
    reader: &mut Reader<'_>,
    count: usize,
    values: &mut Vec<f64>,
) -> Result<(), Damaged> {
    let kind = reader.byte()?;
    if kind & 3 == BITS {
        let mut bits = 0_u64;
        for _ in 0..count {
            bits ^= reader.number()?;
            values.push(f64::from_bits(bits));
        }
        return Ok(());
    }
    let digits = kind >> 2;
    if digits > DIGITS {
        return Err(Damaged("a column has too many digits"));
    }
    let scale = SCALES[usize::from(digits)];
    let divisor = reader.number()? as i64;
    let (mut number, mut step) = (0_i64, 0_i64);
    for _ in 0..count {
        let next = reader.signed()?;
        match kind & 3 {
            PLAIN => number = next,
            DIFFERENCES => number = number.wrapping_add(next),
            _ => {
                step = step.wrapping_add(next);
                number = number.wrapping_add(step);
            }
        }
        values.push(number.wrapping_mul(divisor) as f64 / scale);
    }
    Ok(())
}

/// The values as whole numbers, with how many digits the point was moved; `None` if that loses
/// anything.
fn whole(values: &[f64]) -> Option<(u8, Vec<i64>)> {
    let mut digits = 0;
    for value in values {
        while !is_decimal(*value, digits) {
            digits += 1;
            if digits > DIGITS {
                return None;
            }
        }
    }
    // More digits make some numbers too large that were exact with fewer.
    let all = values.iter().all(|value| is_decimal(*value, digits));
    all.then(|| (digits, values.iter().map(|value| nearest(*value, digits)).collect()))
}

fn is_decimal(value: f64, digits: u8) -> bool {
    let scale = SCALES[usize::from(digits)];
    // By way of a whole number, which has no negative zero.
    (value * scale).abs() < EXACT && (nearest(value, digits) as f64 / scale).to_bits() == value.to_bits()
}

/// The whole number next to a value whose point is moved. One that lies in the middle may go either way: it is no
/// decimal of so many digits.
fn nearest(value: f64, digits: u8) -> i64 {
    let moved = value * SCALES[usize::from(digits)];
    // From there on all numbers are whole, and adding a half would make another one of it.
    if moved.abs() >= EXACT / 2.0 {
        return moved as i64;
    }
    // Twice as quick as to call for it to be rounded, and most of the work of a column.
    (moved + 0.5_f64.copysign(moved)) as i64
}

/// The largest number that divides all of them; 1 if all are 0.
fn divisor(numbers: &[i64]) -> u64 {
    let mut divisor = 0;
    for number in numbers {
        divisor = common(divisor, number.unsigned_abs());
        if divisor == 1 {
            break;
        }
    }
    divisor.max(1)
}

fn differences(numbers: &[i64]) -> Vec<i64> {
    let mut before = 0;
    let differences = numbers.iter().map(|number| {
        let difference = number.wrapping_sub(before);
        before = *number;
        difference
    });
    differences.collect()
}

fn common(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &[f64], most: usize) {
        let mut out = Vec::new();
        encode(values, &mut out);
        let mut reader = Reader(&out);
        let read = decode(&mut reader, values.len()).unwrap();
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read), bits(values));
        assert!(reader.is_empty());
        assert!(out.len() <= most, "{} bytes for {values:?}", out.len());
    }

    #[test]
    fn values_survive_to_the_bit() {
        check(&[], 2);
        check(&[0.0, -0.0, 1.0], 25);
        check(&[1e300, -1e-300, f64::MAX, f64::MIN_POSITIVE, 0.1 + 0.2], 60);
        check(&[9e15, 0.001], 30);
        check(&[1e17, 1e17 + 16.0], 30);
        check(&[f64::from(u32::MAX), -1.0, 0.5], 30);
        let mut seed = 1_u64;
        for length in 1..200 {
            let values: Vec<f64> = (0..length)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    match seed % 4 {
                        0 => (seed >> 40) as f64,
                        1 => (seed >> 50) as f64 / 100.0,
                        2 => f64::from_bits(seed >> 2),
                        _ => -((seed >> 12) as f64),
                    }
                })
                .collect();
            check(&values, 12 * length + 4);
        }
    }

    #[test]
    fn usual_series_are_short() {
        check(&[512.0; 60], 64);
        let pages: Vec<f64> = (0..60).map(|n| f64::from(800_000 + (n * 37) % 50) * 4096.0).collect();
        check(&pages, 70);
        let counter: Vec<f64> = (0..60).map(|n| 1e9 + 1500.0 * f64::from(n)).collect();
        check(&counter, 75);
        let celsius: Vec<f64> = (0..60).map(|n| f64::from(451 + n % 7) / 10.0).collect();
        check(&celsius, 130);
    }

    #[test]
    fn damage_is_an_error() {
        assert!(decode(&mut Reader(&[]), 1).is_err());
        assert!(decode(&mut Reader(&[63 << 2, 1, 1]), 1).is_err());
        assert!(decode(&mut Reader(&[PLAIN, 1]), 3).is_err());
    }
}
