//! Every write of a boot state is cut, and the real boot loader says which slot it boots.

use std::collections::BTreeMap;
use std::path::Path;

use volary_host::Cmd;
use volary_model::Slot;

use super::cut::{Content, Dice, apply, areas, budget, cut};
use super::emulator::decide;
use super::formats::{UBootTools, layout};
use crate::{BootState, Loader, MenderParts, Place, Table, Trial, Write, grub_script};

/// A change of the boot state that was cut, and what may come of it.
struct Case {
    before: BootState,
    after: BootState,
    content: Content,
}

/// What the agent ever does: begin a trial, confirm it, undo it, mend.
const CHANGES: [(BootState, BootState); 8] = {
    const fn started(slot: Slot) -> BootState {
        BootState { slot, trial: Some(Trial::Begun) }
    }
    [
        (BootState::confirmed(Slot::A), BootState::on_trial(Slot::B)),
        (BootState::confirmed(Slot::B), BootState::on_trial(Slot::A)),
        (started(Slot::A), BootState::confirmed(Slot::A)),
        (started(Slot::B), BootState::confirmed(Slot::B)),
        (started(Slot::A), BootState::confirmed(Slot::B)),
        (started(Slot::B), BootState::confirmed(Slot::A)),
        (BootState::on_trial(Slot::B), BootState::confirmed(Slot::A)),
        (BootState::confirmed(Slot::A), BootState::confirmed(Slot::A)),
    ]
};

/// Cut changes, some of them after another one that was cut and mended by nobody.
fn cases(loader: Loader, cuts: usize, dice: &mut Dice) -> Vec<Case> {
    let mut cases = Vec::with_capacity(cuts);
    for _ in 0..cuts {
        let (before, after) = CHANGES[dice.below(CHANGES.len())];
        let mut content = Content::new();
        apply(&mut content, &loader.initial(before));
        for _ in 0..dice.below(3) {
            // The same change, cut before: it is begun again from what is there.
            let writes = loader.writes(&areas(loader, &content), after);
            cut(&mut content, &writes, dice);
        }
        let writes = loader.writes(&areas(loader, &content), after);
        cut(&mut content, &writes, dice);
        cases.push(Case { before, after, content });
    }
    cases
}

/// That the slot is one that the device may boot then, and that a trial is noted.
fn judge(case: &Case, slot: Slot, trial: bool, left: BootState) {
    let allowed = [case.before.at_boot(), case.after.at_boot()];
    let said = format!("{:?} → {:?}: boots {slot}, leaves {left:?}", case.before, case.after);
    assert!(allowed.contains(&left), "{said}");
    assert_eq!(left.slot, slot, "{said}");
    assert_eq!(left.trial, trial.then_some(Trial::Begun), "{said}");
}

/// A disk with an MBR whose second partition holds `bootenv`.
fn grub_disk(content: &Content) -> Vec<u8> {
    let mut disk = vec![0; GRUB_START + (1 << 20)];
    let entry = &mut disk[446 + 16..446 + 32];
    entry[4] = 0x83;
    entry[8..12].copy_from_slice(&(GRUB_START as u32 / 512).to_le_bytes());
    entry[12..16].copy_from_slice(&2048u32.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xAA]);
    for (place, bytes) in content {
        let Place::Offset(at) = place else { panic!("{place:?}") };
        let at = GRUB_START + *at as usize;
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    }
    disk
}

const GRUB_START: usize = 64 * 512;

fn grub_content(disk: &[u8]) -> Content {
    let area = |area: &crate::Area| {
        let Place::Offset(at) = area.place else { panic!("{area:?}") };
        let at = GRUB_START + at as usize;
        (area.place, disk[at..at + area.length].to_vec())
    };
    Loader::Grub.areas().iter().map(area).collect()
}

/// What the script says after its decision.
const GRUB_AFTER: &str = "echo \"DECISION $slot $trial.\"";

fn grub_decides(contents: &[Content]) -> Vec<(Slot, bool, Content)> {
    let disks: Vec<Vec<u8>> = contents.iter().map(grub_disk).collect();
    let script = crate::grub_script::decide(&layout(Table::Mbr));
    decide(&disks, &script, GRUB_AFTER)
        .into_iter()
        .map(|decision| {
            let (slot, trial) = decision.said.split_once(' ').unwrap();
            (slot.parse().unwrap(), trial == "1", grub_content(&decision.disk))
        })
        .collect()
}

#[test]
fn grub_boots_a_whole_slot_whatever_was_cut() {
    let (cuts, mut dice) = budget(100);
    let cases = cases(Loader::Grub, cuts, &mut dice);
    let contents: Vec<Content> = cases.iter().map(|case| case.content.clone()).collect();
    let decisions = grub_decides(&contents);
    let read = |content: &Content| Loader::Grub.read(&areas(Loader::Grub, content)).unwrap().state;
    let mut interrupted = Vec::new();
    for (case, (slot, trial, left)) in cases.iter().zip(&decisions) {
        judge(case, *slot, *trial, read(left));
        // GRUB itself was cut while it wrote: any of its sectors, for it flushes nothing.
        let mut torn = case.content.clone();
        for (place, bytes) in left {
            if dice.below(2) == 0 {
                torn.insert(*place, bytes.clone());
            }
        }
        interrupted.push(Case { before: case.before, after: case.after, content: torn });
    }
    let contents: Vec<Content> = interrupted.iter().map(|case| case.content.clone()).collect();
    for ((case, (slot, trial, left)), (_, _, first)) in
        interrupted.iter().zip(grub_decides(&contents)).zip(&decisions)
    {
        let left = read(&left);
        // As if it had not booted, or as the boot after it.
        if left == read(first).at_boot() {
            assert_eq!((left.slot, left.trial.is_some()), (slot, trial));
        } else {
            judge(case, slot, trial, left);
        }
    }
}

#[test]
fn grub_obeys_the_rule_in_every_state() {
    let mut contents = Vec::new();
    for state in BootState::ALL {
        let mut content = Content::new();
        apply(&mut content, &Loader::Grub.initial(state));
        contents.push(content);
    }
    for (state, (slot, trial, left)) in BootState::ALL.into_iter().zip(grub_decides(&contents)) {
        let left = Loader::Grub.read(&areas(Loader::Grub, &left)).unwrap();
        assert_eq!(left.state, state.at_boot());
        assert!(left.damaged.is_empty());
        assert_eq!(slot, state.at_boot().slot);
        assert_eq!(trial, state.trial == Some(Trial::New));
    }
}

#[test]
fn grub_does_not_try_a_slot_that_it_cannot_note() {
    // Without the file system no file can be written; without the first copy the second one does.
    let places = Loader::Grub.areas();
    for (damaged, expected) in [
        (vec![0], (Slot::A, false)),
        (vec![1], (Slot::B, true)),
        (vec![2], (Slot::B, true)),
        (vec![1, 2], (Slot::A, false)),
        (vec![0, 1], (Slot::A, false)),
    ] {
        let mut content = Content::new();
        apply(&mut content, &Loader::Grub.initial(BootState::on_trial(Slot::B)));
        for number in &damaged {
            content.get_mut(&places[*number].place).unwrap().fill(0xFF);
        }
        let decisions = grub_decides(&[content]);
        assert_eq!((decisions[0].0, decisions[0].1), expected, "damaged: {damaged:?}");
    }
}

#[test]
fn the_whole_script_of_grub_has_no_mistake() {
    for table in [Table::Gpt, Table::Mbr] {
        let script = grub_script(&layout(table)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grub.cfg");
        std::fs::write(&path, script).unwrap();
        Cmd::new("grub-script-check").arg(&path).check().unwrap();
    }
}

const PARTS: MenderParts = MenderParts { a: 2, b: 3 };

/// A FAT file system with Mender's files, and where each of them begins in it.
fn mender_disk() -> (Vec<u8>, BTreeMap<Place, usize>) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("esp");
    std::fs::write(&image, vec![0; 2 << 20]).unwrap();
    Cmd::new("mkfs.fat").args(["-F", "12", "-s", "4"]).arg(&image).check().unwrap();
    let mtools = |program: &str, args: &[&Path]| {
        Cmd::new(program).arg("-i").arg(&image).args(args).check().unwrap();
    };
    for dir in ["::/grub-mender-grubenv", "::/grub-mender-grubenv/mender_grubenv1"] {
        mtools("mmd", &[Path::new(dir)]);
    }
    mtools("mmd", &[Path::new("::/grub-mender-grubenv/mender_grubenv2")]);
    let writes = Loader::MenderGrub(PARTS).initial(BootState::confirmed(Slot::A));
    for (number, Write { place, bytes }) in (1u8..).zip(&writes) {
        let Place::File(name) = place else { panic!("{place:?}") };
        let file = folder.path().join("file");
        // Marked, so that it is found again.
        std::fs::write(&file, vec![0xB0 + number; bytes.len()]).unwrap();
        mtools("mcopy", &[&file, Path::new(&format!("::/grub-mender-grubenv/{name}"))]);
    }
    let disk = std::fs::read(&image).unwrap();
    let mut starts = BTreeMap::new();
    for (number, Write { place, .. }) in (1u8..).zip(&writes) {
        let mark = [0xB0 + number; 64];
        starts.insert(*place, disk.windows(64).position(|window| window == mark).unwrap());
    }
    (disk, starts)
}

#[test]
fn the_scripts_of_mender_boot_a_whole_slot_whatever_was_cut() {
    let (cuts, mut dice) = budget(100);
    let loader = Loader::MenderGrub(PARTS);
    let (disk, starts) = mender_disk();
    let put = |content: &Content| {
        let mut disk = disk.clone();
        for (place, bytes) in content {
            let at = starts[place];
            disk[at..at + bytes.len()].copy_from_slice(bytes);
        }
        disk
    };
    let cases = cases(loader, cuts, &mut dice);
    let disks: Vec<Vec<u8>> = cases.iter().map(|case| put(&case.content)).collect();
    let script = format!(
        "set mender_rootfsa_part=2\nset mender_rootfsb_part=3\nset mender_systemd_machine_id=\n\
         {}\nmender_check_and_restore_env\nmender_load_env_with_rollback\n",
        include_str!("mender_env_functions.cfg").replace("sleep 10", "echo SLEEP")
    );
    let after = "echo \"DECISION $mender_boot_part $upgrade_available $bootcount.\"";
    for (case, decision) in cases.iter().zip(decide(&disks, &script, after)) {
        let part = |area: &crate::Area| {
            let at = starts[&area.place];
            (area.place, decision.disk[at..at + area.length].to_vec())
        };
        let content: Content = loader.areas().iter().map(part).collect();
        let left = loader.read(&areas(loader, &content)).unwrap();
        // Its locks are mended; a copy that was not reached yet is older, and is told.
        assert!(left.damaged.iter().all(|text| text.contains(" says ")), "{:?}", left.damaged);
        let mut said = decision.said.split(' ');
        let slot = if said.next() == Some("2") { Slot::A } else { Slot::B };
        let trial = said.next() == Some("1");
        judge(case, slot, trial, left.state);
    }
}

#[test]
fn the_tools_of_u_boot_find_a_whole_slot_whatever_was_cut() {
    let (cuts, mut dice) = budget(100);
    let tools = UBootTools::new();
    for case in cases(Loader::UBoot, cuts, &mut dice) {
        tools.put(&case.content);
        let said = tools.run("fw_printenv", &["volary_slot", "upgrade_available", "bootcount"]);
        let found = Loader::UBoot.read(&areas(Loader::UBoot, &case.content)).unwrap().state;
        let expected = |state: BootState| {
            let upgrade = u8::from(state.trial.is_some());
            let count = u8::from(state.trial == Some(Trial::Begun));
            format!("volary_slot={}\nupgrade_available={upgrade}\nbootcount={count}", state.slot)
        };
        assert!([case.before, case.after].contains(&found));
        assert_eq!(said.trim(), expected(found));
    }
}
