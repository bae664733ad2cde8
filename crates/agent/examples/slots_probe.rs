//! The smallest system that a slot can hold: this program as the first process of a machine, with the
//! agent's own parts for slots. The tests `slow_slots` and `slow_power` boot it with the real boot loader.
//!
//! What it does stands in `/probe`: `install` puts the image of the data partition into the other slot and
//! boots it, once; `commit` keeps the slot it runs in; `wait` never does, and boots after a while as the dead
//! man's timer would; `panic` ends; `hang` does nothing for ever; `follow` keeps the slot if that is on trial,
//! and goes on to the next image, for as long as it has power; `count` says what it counted to before, and
//! counts on, each number safe on the disk before it is said.

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use volary_agent::http::HttpError;
use volary_agent::log;
use volary_agent::paths::Paths;
use volary_agent::slots::install::install;
use volary_agent::slots::source::Fetch;
use volary_agent::slots::{Slots, switch};
use volary_device::{Image, Policy, Scope, Target, Work};
use volary_host::{Cmd, create_dir, write_atomic};

/// How far `count` counts after each start.
const COUNTS: u64 = 5;

/// An artifact on the data partition.
struct OnData(String);

impl Fetch for OnData {
    fn open(&self, beside: &str, range: Range<u64>) -> Result<Option<Box<dyn Read>>, HttpError> {
        use std::io::Seek;
        let Ok(mut file) = fs::File::open(self.name(beside)) else { return Ok(None) };
        if file.seek(std::io::SeekFrom::Start(range.start)).is_err() {
            return Ok(None);
        }
        Ok(Some(Box::new(file.take(range.end - range.start))))
    }

    fn name(&self, beside: &str) -> String {
        format!("/data/{}.mender{beside}", self.0)
    }
}

fn main() {
    let end = run().map_or_else(|error| format!("failed: {error}"), |end| end.to_owned());
    log::say(format!("PROBE {end}"));
    // The kernel panics if its first process ends.
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn mount(args: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    Ok(Cmd::new("/bin/mount").args(args).check().map(drop)?)
}

fn run() -> Result<&'static str, Box<dyn std::error::Error>> {
    // Without devices there is no /dev/null to read from, and a pipe does it too.
    Cmd::new("/bin/mount").args(["-t", "devtmpfs", "devtmpfs", "/dev"]).stdin("\n").check()?;
    mount(&["-t", "proc", "proc", "/proc"])?;
    mount(&["-t", "sysfs", "sysfs", "/sys"])?;
    mount(&["-t", "tmpfs", "tmpfs", "/run"])?;
    let data = volary_host::read_to_string(Path::new("/data-device"))?;
    mount(&["-t", "ext4", data.trim(), "/data"])?;
    mount(&["-o", "bind", "/data/volary", "/var/lib/volary"])?;
    let paths = Paths::below(Path::new("/"));
    paths.prepare()?;
    switch::mend(&paths);
    let slots = Slots::open(&paths)?.ok_or("there is no slots.json")?;
    let found = slots.boot_state()?;
    let todo = volary_host::read_to_string(Path::new("/probe"))?;
    let carried = Path::new("/etc/carried").exists();
    log::say(format!(
        "PROBE runs slot={} image={} state={} carried={carried} damaged={}",
        slots.running,
        slots.image.name,
        found.state.word(),
        found.damaged.len()
    ));
    match todo.trim() {
        "install" => {
            let mark = Path::new("/data/tried");
            if mark.exists() {
                return Ok("rests");
            }
            write_atomic(mark, b"", 0o600)?;
            try_image(&paths, &slots)?;
            Ok("boots")
        }
        "commit" => {
            switch::commit(&paths)?;
            if Path::new("/data/kept").exists() {
                return Ok("rests");
            }
            write_atomic(Path::new("/data/kept"), b"", 0o600)?;
            switch::boot(&paths)?;
            Ok("boots")
        }
        "follow" => {
            whole()?;
            if found.state.trial.is_some() {
                log::say("PROBE confirms");
                switch::commit(&paths)?;
                log::say(format!("PROBE confirmed image={}", slots.image.name));
            }
            try_image(&paths, &slots)?;
            Ok("boots")
        }
        "wait" => {
            std::thread::sleep(Duration::from_secs(2));
            switch::go_back(&paths, Some(slots.running.other()))?;
            switch::boot(&paths)?;
            Ok("boots")
        }
        "forget" => {
            // Not even an undo: the boot alone leads back.
            switch::boot(&paths)?;
            Ok("boots")
        }
        "count" => {
            let counter = Path::new("/data/counter");
            let found: u64 =
                if counter.exists() { volary_host::read_to_string(counter)?.trim().parse()? } else { 0 };
            log::say(format!("PROBE found {found}"));
            for number in found + 1..=found + COUNTS {
                write_atomic(counter, number.to_string().as_bytes(), 0o600)?;
                log::say(format!("PROBE counted {number}"));
            }
            Ok("rests")
        }
        "panic" => std::process::exit(1),
        other => {
            log::say(format!("PROBE {other}s"));
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
    }
}

/// That every file of the image is what it was when the image was made.
fn whole() -> Result<(), Box<dyn std::error::Error>> {
    let sums = Cmd::new("/bin/sha256sum").args(["-c", "-s", "/sums"]).run()?;
    if !sums.status.success() {
        return Err("a file of this slot is not whole".into());
    }
    log::say("PROBE whole");
    Ok(())
}

/// The image of the data partition that does not run.
fn next_image(running: &str) -> Result<String, Box<dyn std::error::Error>> {
    let images = volary_host::read_to_string(Path::new("/data/images"))?;
    let next = images.lines().find(|image| *image != running);
    Ok(next.ok_or("the data partition has no other image")?.to_owned())
}

fn try_image(paths: &Paths, slots: &Slots) -> Result<(), Box<dyn std::error::Error>> {
    let next = next_image(slots.image.name.as_str())?;
    let pins = volary_host::read_to_string(Path::new(&format!("/data/{next}.pins")))?;
    let words: Vec<&str> = pins.split_whitespace().collect();
    let [name, artifact, size, rootfs] = words.as_slice() else { return Err("pins are four words".into()) };
    let image = Image {
        name: name.parse()?,
        artifact: artifact.parse()?,
        size: size.parse()?,
        rootfs: rootfs.parse()?,
        manifest: None,
        from: None,
        into: slots.running.other(),
    };
    log::say(format!("PROBE installs {next}"));
    let installed = install(slots, &image, &OnData(next))?;
    log::say(format!("PROBE installed {} bytes, {} written", installed.length, installed.written));
    create_dir(Path::new("/etc"))?;
    let work = Work {
        target: Target {
            stage: "development".parse()?,
            commit: "1".repeat(40).parse()?,
            rolling: String::new(),
        },
        scope: Scope::Full,
        started_at: volary_host::now(),
        seen_at: volary_host::now(),
        attempt: 1,
        urged: false,
        suite: None,
        committed_at: None,
        policy: Policy { carry: vec!["/etc/carried".to_owned()], ..Policy::default() },
        image: Some(Box::new(image)),
        checkpoint: None,
        interruptions: 0,
        stuck: 0,
        changed_tasks: 0,
        packages: Default::default(),
    };
    if let volary_device::Event::Failed(failure) = switch::switch(paths, &work) {
        return Err(failure.to_string().into());
    }
    log::say("PROBE switched");
    switch::boot(paths)?;
    Ok(())
}
