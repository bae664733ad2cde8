//! `make image-demo`: the image of a device type is built, booted by real firmware, taken over the air to the
//! next release of Debian by a merge, and brought back by a revert, told step by step.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::Value;
use volary_api::v1::fleet::DeviceToken;
use volary_host::Cmd;
use volary_model::CommitId;
use volary_testkit::chain::{Chain, Clone, Tools, inventory};
use volary_testkit::{Cache, Firmware, Lab, Machine};

use crate::demo::interrupt::Interrupt;
use crate::demo::story::{Story, say};

/// How the demo ends.
#[derive(Args)]
pub struct ImageDemoArgs {
    /// End when everything is told, instead of keeping the page up until Ctrl-C
    #[arg(long)]
    no_keep: bool,
}

const NAME: &str = "dev-1";
const TYPE: &str = "qemu-amd64";

/// The release of Debian in the first image, and in the second: as the device type names it, and as the device tells it.
const OLD: (&str, &str) = ("bookworm", "12");
const NEW: (&str, &str) = ("trixie", "13");

/// What is written on the device, to see that it stays.
const KEPT: &str = "echo kept >/data/of-the-device; cat /etc/machine-id >>/data/of-the-device";

/// Packages come over the network, and are unpacked on a machine that does other things too.
const BUILD: Duration = Duration::from_secs(30 * 60);

/// QEMU emulates the processor: a boot takes minutes, and an update is a gigabyte and a boot.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// The card that the device has: larger than the image, so that there is something to grow into.
const CARD: u64 = 4 << 30;

const DEVICE_TYPE: &str = include_str!("../../../examples/device-types/qemu-amd64.yml");

const SITE: &str = "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: say what is followed\n      \
                    ansible.builtin.copy: { content: \"configured by site.yml\\n\", dest: /etc/motd }\n";

/// Runs the demo.
pub fn run(args: &ImageDemoArgs) -> anyhow::Result<()> {
    let interrupt = Interrupt::listen()?;
    let tools = Tools::find()?;
    // Better now than after the server runs.
    tools.agent_deb()?;
    let logs = tools.target.join("image-demo");
    volary_host::create_dir(&logs)?;
    let story = Story::begin();
    say!("{}", story.bold("Volary: an image, and its update over the air"));
    let cache = Cache::open()?;
    let lab = Lab::open(&cache)?;
    interrupt.guard(lab.breaker());
    let told = tell(&story, lab, tools, &logs, &interrupt, args.no_keep);
    interrupt.settle();
    told.with_context(|| format!("the logs of everything are in {}", logs.display()))
}

fn tell(
    story: &Story,
    lab: Lab,
    tools: Tools,
    logs: &std::path::Path,
    interrupt: &Interrupt,
    no_keep: bool,
) -> anyhow::Result<()> {
    story.chapter("A fleet with a device type");
    let chain = story.step("volary init, volary serve", || Ok(Chain::open(lab, tools, logs)?))?;
    let fleet = story
        .step("the fleet says what a qemu-amd64 is, and how its devices are configured", || fleet(&chain))?;
    story.note(DEVICE_TYPE.trim_end());

    story.chapter("The image");
    let image = story
        .step("volary image build qemu-amd64 --stage canary --name one", || build(&chain, &fleet, "one"))?;
    story.note(&image.files);
    story.step("a join token is put onto its boot partition, as a laptop would", || {
        token(&chain, &image.disk)
    })?;
    story.step("volary image publish; volary bump --image qemu-amd64=one", || {
        pin(&chain, &fleet, &image, "one")
    })?;
    let first = story.step("volary promote: a signed merge, the canaries follow it", || promote(&fleet))?;

    story.chapter("The device");
    let machine = Machine::from_image(chain.lab(), NAME, Firmware::UefiAmd64, &image.disk, CARD)?;
    story.step("UEFI starts GRUB, GRUB starts slot a: up with systemd", || Ok(machine.start()?))?;
    story.step("it grew its data, made its keys, enrolled, and follows the canaries' branch", || {
        Ok(chain.wait_for_good(NAME, &first, PATIENCE)?)
    })?;
    story.note(&runs(&machine)?);
    machine.check(&["sh", "-c", KEPT])?;
    is_on(&machine, "a", OLD.1)?;

    story.chapter(&format!("From {} to {}, by a merge", OLD.0, NEW.0));
    let image =
        story.step(&format!("the device type gets `suite: {}`: image build --name two", NEW.0), || {
            let newer = DEVICE_TYPE.replace(&format!("suite: {}", OLD.0), &format!("suite: {}", NEW.0));
            ensure!(newer != DEVICE_TYPE, "the example is of another release");
            fleet.write(&format!("device-types/{TYPE}.yml"), &newer)?;
            fleet.commit("upgrade the image to the next release")?;
            fleet.push("master")?;
            build(&chain, &fleet, "two")
        })?;
    story.step("volary image publish; volary bump --image qemu-amd64=two", || {
        pin(&chain, &fleet, &image, "two")
    })?;
    let second = story.step("volary promote: a signed merge into canary", || promote(&fleet))?;
    story.step("the device installs it into slot b, and boots that", || boots(&machine, "b"))?;
    story.step("it configures it, and is well: confirmed", || {
        Ok(chain.wait_for_good(NAME, &second, PATIENCE)?)
    })?;
    story.note(&runs(&machine)?);
    is_on(&machine, "b", NEW.1)?;
    story.note("the data is there, and the device is the same");

    story.chapter("And back, by a revert");
    let third = story.step("git revert of both commits, pushed, and volary promote", || {
        fleet.pull()?;
        fleet.run_git(&["revert", "--no-edit", "HEAD~2..HEAD"])?;
        fleet.push("master")?;
        promote(&fleet)
    })?;
    story.step("the device installs image one into slot a, and boots that", || boots(&machine, "a"))?;
    story.step("it is well: confirmed", || Ok(chain.wait_for_good(NAME, &third, PATIENCE)?))?;
    story.note(&runs(&machine)?);
    is_on(&machine, "a", OLD.1)?;
    story.note("the data is there, and the device is the same");
    story.note(chain.volary(&["device", "list"])?.trim_end());

    say!("\nall of it took {}", story.elapsed());
    if !no_keep {
        let tokens = chain.folder().join("client.toml");
        say!("the page: {}   the token to sign in: {}", chain.url(), tokens.display());
        say!("press Ctrl-C to take everything down");
        interrupt.wait(|| false);
    }
    Ok(())
}

/// A fleet of one device without packages of an archive.
fn fleet(chain: &Chain) -> anyhow::Result<Clone> {
    let fleet = chain.clone_of("fleet")?;
    let config = volary_host::read_to_string(&fleet.dir().join("volary.yml"))?;
    let config = config.replace("packages: rolling", "packages: lock").replace("poll: 60s", "poll: 5s");
    fleet.write("volary.yml", &format!("{config}\nconfirm: {{ canary: 10s }}\n"))?;
    fleet.write("inventory.yml", &inventory(&[(NAME, "canary")]))?;
    // Those of the template ask for packages of a suite.
    fleet.run_git(&["rm", "-r", "--quiet", "health/required.d"])?;
    fleet.write("site.yml", SITE)?;
    fleet.write(&format!("device-types/{TYPE}.yml"), DEVICE_TYPE)?;
    fleet.commit("describe the fleet")?;
    fleet.push("master")?;
    Ok(fleet)
}

/// Merges into the canaries' branch, and says which commit that is.
fn promote(fleet: &Clone) -> anyhow::Result<CommitId> {
    fleet.run_volary(&["promote", "--from", "development", "--to", "canary", "--yes"])?;
    Ok(fleet.run_git(&["rev-parse", "refs/remotes/origin/canary"])?.trim().parse()?)
}

/// Gives the artifact to the server, and has the stages ask for it once they follow this commit of master.
fn pin(chain: &Chain, fleet: &Clone, image: &Built, name: &str) -> anyhow::Result<()> {
    let publish = chain.desk().volary(&["image", "publish"]).arg(&image.artifact).timeout(PATIENCE);
    chain.desk().check(&publish)?;
    Ok(fleet.run_volary(&["bump", "--image", &format!("{TYPE}={name}")]).map(drop)?)
}

/// Waits until the device runs from a slot.
fn boots(machine: &Machine<'_>, slot: &str) -> anyhow::Result<()> {
    until(machine, |machine| {
        Ok(machine.check(&["cat", "/proc/cmdline"])?.contains(&format!("volary.slot={slot}")))
    })
}

/// That it runs this release from this slot, and is still the device that it was, with its data.
fn is_on(machine: &Machine<'_>, slot: &str, release: &str) -> anyhow::Result<()> {
    let line = machine.check(&["cat", "/proc/cmdline"])?;
    ensure!(line.contains(&format!("volary.slot={slot}")), "it runs from another slot: {line}");
    let version = machine.check(&["cat", "/etc/debian_version"])?;
    let is_release = version.trim().split('.').next() == Some(release);
    ensure!(is_release, "it runs Debian {}, not {release}", version.trim());
    let kept = machine.check(&["cat", "/data/of-the-device"])?;
    let id = machine.check(&["cat", "/etc/machine-id"])?;
    ensure!(kept == format!("kept\n{id}"), "the device is another one, or lost its data: {kept}");
    Ok(())
}

struct Built {
    disk: PathBuf,
    artifact: PathBuf,
    /// What was made, as the command says it.
    files: String,
}

fn build(chain: &Chain, fleet: &Clone, name: &str) -> anyhow::Result<Built> {
    let deb = chain.tools().agent_deb()?;
    let command = chain
        .desk()
        .volary(&["image", "build", TYPE, "--stage", "canary", "--name", name, "--json", "--agent-deb"])
        .arg(&deb)
        .cwd(fleet.dir())
        .timeout(BUILD);
    let record: Value = serde_json::from_str(&chain.desk().check(&command)?.text())?;
    let path = |what: &str| -> anyhow::Result<PathBuf> {
        let file = record[what]["file"].as_str().with_context(|| format!("the record has no {what}"))?;
        Ok(fleet.dir().join("images").join(file))
    };
    let line = |what: &str| {
        let of = &record[what];
        let text = |key: &str| of[key].as_str().unwrap_or("").to_owned();
        format!(
            "{what:<9} {:<24} {:>6} MiB  {}\n",
            text("file"),
            of["size"].as_u64().unwrap_or(0) >> 20,
            text("digest")
        )
    };
    Ok(Built { disk: path("disk")?, artifact: path("artifact")?, files: line("disk") + &line("artifact") })
}

/// Puts a token and a name onto the boot partition.
fn token(chain: &Chain, disk: &std::path::Path) -> anyhow::Result<()> {
    let token: DeviceToken = chain.desk().json(&["device", "token", "--stage", "canary"])?;
    for (name, text) in [("token", token.token), ("settings", format!("name={NAME}\n"))] {
        let file = chain.folder().join(name);
        volary_host::write_atomic(&file, text.as_bytes(), 0o600)?;
        Cmd::new("mcopy")
            .args(["-i", &format!("{}@@1M", disk.display())])
            .arg(&file)
            .arg(format!("::/volary/{name}"))
            .env("MTOOLS_SKIP_CHECK", "1")
            .check()?;
    }
    Ok(())
}

/// What the device says it runs.
fn runs(machine: &Machine<'_>) -> anyhow::Result<String> {
    let script = "cat /etc/volary/image.json; echo Debian $(cat /etc/debian_version), Linux $(uname -r); \
                  findmnt --noheadings --output SOURCE,SIZE,USED /; \
                  findmnt --noheadings --output SOURCE,SIZE,USED /data";
    Ok(machine.check(&["sh", "-c", script])?.trim_end().to_owned())
}

/// Waits until something is so; a machine that boots does not answer meanwhile.
fn until(
    machine: &Machine<'_>,
    mut look: impl FnMut(&Machine<'_>) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    while !look(machine).unwrap_or(false) {
        if started.elapsed() > PATIENCE {
            bail!(
                "it did not within {} s; its console ends:\n{}",
                PATIENCE.as_secs(),
                machine.console_end(20)
            );
        }
        std::thread::sleep(Duration::from_secs(2));
    }
    Ok(())
}
