//! Two slots on whole machines: UEFI with GRUB, and U-Boot. A slot B that is kept, one that panics, one
//! that hangs until the watchdog resets it, one that never confirms: the machine is where it should be.

#![allow(clippy::print_stdout, reason = "what each machine went through is worth reading")]
#![allow(clippy::disallowed_methods, reason = "files of tests need not survive a power cut")]

mod common;
mod slots;

use std::path::Path;
use std::time::Duration;

use slots::{Bench, Board, Machine, file_drive};
use volary_testkit::wait_until;

/// How long a machine may take for a few boots under emulation. QEMU's NVMe loses an interrupt now and then,
/// and the kernel waits for the disk then: such a machine is begun anew.
const BOOTS: Duration = Duration::from_secs(360);

/// How often.
const TRIES: usize = 4;

/// What a slot B does: it is kept, panics, is never confirmed, is undone, hangs.
const STORIES: [&str; 5] = ["commit", "panic", "forget", "wait", "hang"];

/// Waits until it said this. `None` if the emulation stalled.
fn wait_for(machine: &Machine, what: &str) -> Option<()> {
    let waited = wait_until(what, BOOTS, || {
        let said = machine.said();
        assert!(!said.contains("PROBE failed"), "{said}");
        let tail = || said.lines().rev().take(3).collect::<Vec<_>>().join(" | ");
        if said.contains(what) { Ok(()) } else { Err(tail()) }
    });
    waited.inspect_err(|error| println!("{error}")).ok()
}

/// The stories of these slots B.
fn check(board: Board, wanted: &[&str]) {
    let bench = Bench::new(board);
    let (boot, old) = (bench.boot_partition(), bench.rootfs("old", "install", 0));
    let once = |todo: &str, name: &str, data: &Path| {
        let disk = bench.disk(name, &boot, &old, data);
        let machine = bench.machine(name, &file_drive(&disk));
        if todo != "hang" {
            wait_for(&machine, "PROBE rests")?;
            return Some(machine.story());
        }
        wait_for(&machine, "PROBE hangs")?;
        drop(machine);
        // What a watchdog does.
        let again = bench.machine(&format!("{name}-again"), &file_drive(&disk));
        wait_for(&again, "PROBE rests")?;
        Some(again.story())
    };
    let run = |todo: &str| {
        let data = bench.data(todo, &[(todo, &bench.rootfs(todo, todo, 0))]);
        let story = (0..TRIES).find_map(|number| once(todo, &format!("{todo}-{number}"), &data));
        let story = story.unwrap_or_else(|| panic!("{todo}: the emulation stalled {TRIES} times"));
        println!("{board:?} {todo}:\n  {}", story.join("\n  "));
        story
    };
    let old_a = |state: &str| format!("runs slot=a image=old state={state} carried=true damaged=0");
    let begin = [
        "volary: booting slot a, trial 0".to_owned(),
        old_a("a"),
        "volary: booting slot b, trial 1".to_owned(),
    ];
    let new_b =
        |image: &str, state: &str| format!("runs slot=b image={image} state={state} carried=true damaged=0");
    let back = [
        "volary: slot b was tried and not confirmed".to_owned(),
        "volary: booting slot a, trial 0".to_owned(),
        old_a("a"),
    ];

    for todo in wanted {
        let rest = match *todo {
            "commit" => {
                let boots = "volary: booting slot b, trial 0".to_owned();
                [&begin[..], &[new_b(todo, "b-begun"), boots, new_b(todo, "b")]].concat()
            }
            // It never reaches anything of ours, or does not keep the slot.
            "panic" | "forget" => [&begin[..], &[new_b(todo, "b-begun")], &back].concat(),
            // The undo, as the timer calls it, says where the boot goes: the boot loader has nothing to undo.
            "wait" => [&begin[..], &[new_b(todo, "b-begun")], &back[1..]].concat(),
            "hang" => back.to_vec(),
            other => panic!("there is no story of {other}"),
        };
        assert_eq!(run(todo), rest, "{todo}");
    }
}

#[test]
fn grub_is_in_the_new_slot_if_it_holds_and_in_the_old_one_otherwise() {
    check(Board::UefiAmd64, &STORIES);
}

#[test]
fn u_boot_is_in_the_new_slot_if_it_holds_and_in_the_old_one_otherwise() {
    check(Board::UBootArm64, &STORIES);
}

#[test]
fn u_boot_finds_the_slots_and_their_state_behind_an_mbr() {
    check(Board::UBootMbr, &["commit", "panic"]);
}
