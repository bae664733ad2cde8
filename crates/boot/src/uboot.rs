//! The boot state of U-Boot: its redundant environment, as `fw_setenv` of libubootenv reads and writes it.
//!
//! Each of the two copies is a CRC-32 of the variables, a serial number of one byte, and the
//! variables. The valid copy with the higher serial counts, and the other one is written. We write
//! both, one after the other, so that either may be lost afterwards.
//!
//! `upgrade_available` is 1 during a trial, `bootcount` counts its boots, `volary_slot` is the slot. There
//! is no `bootlimit`: the script counts, and a U-Boot that counts too would do it twice.

use volary_model::Slot;

use crate::state::{BootState, Trial};
use crate::{Area, Found, Lost, Place, Write};

/// The length of each copy; U-Boot's `CONFIG_ENV_SIZE`.
pub const ENVIRONMENT_SIZE: usize = 0x4000;

/// Where the copies are in the partition `bootenv`.
pub const ENVIRONMENT_OFFSETS: [u64; 2] = [0, 0x8_0000];

/// The CRC and the serial number.
const HEAD: usize = 5;

const SLOT: &str = "volary_slot";
const UPGRADE: &str = "upgrade_available";
const BOOTCOUNT: &str = "bootcount";
const OURS: [&str; 3] = [BOOTCOUNT, UPGRADE, SLOT];

pub fn areas() -> Vec<Area> {
    ENVIRONMENT_OFFSETS.map(|offset| Area { place: Place::Offset(offset), length: ENVIRONMENT_SIZE }).into()
}

/// One valid copy.
struct Copy {
    serial: u8,
    variables: Vec<(String, String)>,
}

pub fn read(areas: &[Vec<u8>]) -> Result<Found, Lost> {
    let copies = copies(areas);
    let mut damaged: Vec<String> = (1..)
        .zip(&copies)
        .filter_map(|(number, copy)| copy.as_ref().err().map(|why| format!("copy {number}: {why}")))
        .collect();
    let newest = newest(&copies);
    let Some(Ok(copy)) = newest.map(|number| &copies[number]) else { return Err(Lost(damaged)) };
    let state = match state(&copy.variables) {
        Ok(state) => state,
        Err(why) => {
            damaged.push(why);
            return Err(Lost(damaged));
        }
    };
    for (number, copy) in (1..).zip(&copies) {
        if let Ok(copy) = copy
            && self::state(&copy.variables) != Ok(state)
        {
            damaged.push(format!("copy {number} is older and says something else"));
        }
    }
    Ok(Found { state, damaged })
}

fn copies(areas: &[Vec<u8>]) -> [Result<Copy, String>; 2] {
    [0, 1].map(|number| decode(areas.get(number).map_or(&[][..], Vec::as_slice)))
}

/// Which copy U-Boot takes.
fn newest(copies: &[Result<Copy, String>; 2]) -> Option<usize> {
    match copies {
        [Ok(first), Ok(second)] => Some(match (first.serial, second.serial) {
            (u8::MAX, 0) => 1,
            (0, u8::MAX) => 0,
            (first, second) => usize::from(second > first),
        }),
        [Ok(_), Err(_)] => Some(0),
        [Err(_), Ok(_)] => Some(1),
        [Err(_), Err(_)] => None,
    }
}

fn decode(bytes: &[u8]) -> Result<Copy, String> {
    if bytes.len() != ENVIRONMENT_SIZE {
        return Err("it cannot be read".to_owned());
    }
    let (head, data) = bytes.split_at(HEAD);
    if head[..4] != crc32(data).to_le_bytes() {
        return Err("its checksum is wrong".to_owned());
    }
    let mut variables = Vec::new();
    for line in data.split(|byte| *byte == 0).take_while(|line| !line.is_empty()) {
        let line = std::str::from_utf8(line).map_err(|_| "a variable is not text".to_owned())?;
        let (name, value) = line.split_once('=').ok_or_else(|| format!("{line:?} is not NAME=VALUE"))?;
        variables.push((name.to_owned(), value.to_owned()));
    }
    Ok(Copy { serial: head[4], variables })
}

fn state(variables: &[(String, String)]) -> Result<BootState, String> {
    let value = |name: &str| crate::block::get(variables, name);
    let slot = value(SLOT).ok_or_else(|| format!("the environment has no variable {SLOT}"))?;
    let slot: Slot = slot.parse().map_err(|error| format!("{SLOT}: {error}"))?;
    let number = |name: &str| match value(name) {
        None | Some("") => Ok(0),
        Some(text) => text.parse::<u32>().map_err(|_| format!("{name} is {text:?}, not a number")),
    };
    let trial = match (number(UPGRADE)?, number(BOOTCOUNT)?) {
        (0, _) => None,
        (_, 0) => Some(Trial::New),
        (_, _) => Some(Trial::Begun),
    };
    Ok(BootState { slot, trial })
}

pub fn writes(areas: &[Vec<u8>], state: BootState) -> Vec<Write> {
    let copies = copies(areas);
    let newest = newest(&copies);
    let (serial, others) = match newest.map(|number| &copies[number]) {
        Some(Ok(copy)) => (copy.serial, copy.variables.as_slice()),
        Some(Err(_)) | None => (0, &[][..]),
    };
    let (upgrade, bootcount) = match state.trial {
        None => ("0", "0"),
        Some(Trial::New) => ("1", "0"),
        Some(Trial::Begun) => ("1", "1"),
    };
    let mut variables = vec![(BOOTCOUNT, bootcount), (UPGRADE, upgrade), (SLOT, state.slot.as_str())];
    let others = others.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    variables.extend(others.filter(|(name, _)| !OURS.contains(name)));
    variables.sort_unstable();
    let order = if newest == Some(0) { [1, 0] } else { [0, 1] };
    (1u8..)
        .zip(order)
        .map(|(step, number)| Write {
            place: Place::Offset(ENVIRONMENT_OFFSETS[number]),
            bytes: encode(serial.wrapping_add(step), &variables),
        })
        .collect()
}

fn encode(serial: u8, variables: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, serial];
    for (name, value) in variables {
        let line = format!("{name}={value}");
        // Two zeros end the variables.
        if bytes.len() + line.len() + 2 > ENVIRONMENT_SIZE {
            continue;
        }
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(0);
    }
    bytes.resize(ENVIRONMENT_SIZE, 0);
    let crc = crc32(&bytes[HEAD..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// CRC-32 as in Ethernet.
pub fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut crc = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    let step = |crc: u32, byte: &u8| (crc >> 8) ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)];
    !bytes.iter().fold(u32::MAX, step)
}
