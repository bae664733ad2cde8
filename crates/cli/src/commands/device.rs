//! `volary device`: who belongs to the fleet.

use clap::Subcommand;
use volary_api::join::JoinToken;
use volary_api::v1::device::Report;
use volary_api::v1::fleet::{Accept, DeviceToken, NewDeviceToken};
use volary_api::v1::status::Device;
use volary_fleet::RootSigners;
use volary_model::{DeviceName, StageName};

use super::fleet::read_fleet;
use super::{approve, device_show, encode, status};
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, ago_or_dash};
use crate::workdir::WorkDir;

/// What to do with devices.
#[derive(Subcommand)]
pub enum DeviceCommand {
    /// List all devices
    List,
    /// Show one device: what it runs and why, what it waits for, how its last convergences ended
    Show {
        /// The device
        name: DeviceName,
    },
    /// Make a join token for: volary-agent enroll --token TOKEN
    Token {
        /// The stage that devices with it begin in
        #[arg(long)]
        stage: StageName,
        /// How many devices may use it
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// For how many hours it is good
        #[arg(long, default_value_t = 24, value_name = "HOURS")]
        valid_for: u64,
    },
    /// Accept a device that waits; compare its fingerprint first
    Accept {
        /// The device
        name: DeviceName,
        /// The stage it begins in
        #[arg(long)]
        stage: StageName,
        /// The name it gets, if its client is Mender's: its host in the inventory
        #[arg(long = "as", value_name = "NAME")]
        as_name: Option<DeviceName>,
    },
    /// Let a device whose client is Mender's try again what failed on it
    Retry {
        /// The device
        name: DeviceName,
    },
    /// Call back the update that is on its way to a device whose client is Mender's
    Abort {
        /// The device
        name: DeviceName,
    },
    /// Send a device away: its certificate counts no more
    Reject {
        /// The device
        name: DeviceName,
    },
    /// Forget a device; it may enrol anew
    Remove {
        /// The device
        name: DeviceName,
    },
}

/// Runs `volary device …`.
pub fn run(command: DeviceCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    let path = |name: &DeviceName, rest: &str| format!("/api/v1/devices/{}{rest}", encode(name.as_str()));
    match command {
        DeviceCommand::List => {
            let devices: Vec<Device> = client.get("/api/v1/devices")?;
            out.show(&devices, |devices| list(devices, out));
        }
        DeviceCommand::Show { name } => {
            let device: Device = client.get(&path(&name, ""))?;
            let reports: Vec<Report> = client.get(&path(&name, "/reports?limit=10&results=true"))?;
            out.show(&(device, reports), |(device, reports)| device_show::show(device, reports, out));
        }
        DeviceCommand::Token { stage, uses, valid_for } => {
            let request = NewDeviceToken { stage, uses, valid_for: valid_for * 3_600 };
            let token: DeviceToken = client.post("/api/v1/device-tokens", &request)?;
            compare(&token, connection, out)?;
            out.show(&token, |token| out.line(&token.token));
        }
        DeviceCommand::Accept { name, stage, as_name } => {
            let accept = Accept { stage: stage.clone(), as_name: as_name.clone() };
            client.post::<()>(&path(&name, "/accept"), &accept)?;
            out.line(format!("{} is accepted and begins in {stage}", as_name.unwrap_or(name)));
        }
        DeviceCommand::Retry { name } => {
            client.post::<()>(&path(&name, "/retry"), &())?;
            out.line(format!("{name} tries its image again when it asks next"));
        }
        DeviceCommand::Abort { name } => {
            client.post::<()>(&path(&name, "/abort"), &())?;
            out.line(format!("the update of {name} is called back"));
            out.line(format!("help: it is tried again only after: volary device retry {name}"));
        }
        DeviceCommand::Reject { name } => {
            client.post::<()>(&path(&name, "/reject"), &())?;
            out.line(format!("{name} is rejected; its certificate counts no more"));
        }
        DeviceCommand::Remove { name } => {
            client.delete(&path(&name, ""))?;
            out.line(format!("{name} is forgotten"));
        }
    }
    Ok(())
}

/// The token says whom the device will believe, and the server made it: hold it against what this
/// side knows before a person hands it on.
fn compare(token: &DeviceToken, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let lie = |what: &str| {
        let help = "do not use it; the server may be in other hands".to_owned();
        Failure::no(format!("the token that the server made names {what}"), Some(help))
    };
    let token = JoinToken::decode(&token.token).map_err(anyhow::Error::from)?;
    let ca = volary_host::read_to_string(&connection.config()?.ca)?;
    if token.ca.trim() != ca.trim() {
        return Err(lie("another certificate authority than client.toml"));
    }
    let Ok(work) = WorkDir::find() else {
        out.note("the signers in the token are those that the server names; inside a clone of the fleet repository they are compared with it");
        return Ok(());
    };
    let fleet = read_fleet(&work)?;
    let root = RootSigners::parse(&token.signers).map_err(anyhow::Error::from)?;
    if root.quorum < fleet.quorum_of(&token.stage) {
        return Err(lie(&format!(
            "{} as enough to sign for {}, and volary.yml asks for {}",
            approve::people(root.quorum),
            token.stage,
            fleet.quorum_of(&token.stage)
        )));
    }
    let known = volary_host::read_to_string(&work.root().join(volary_fleet::SIGNERS_FILE))?;
    let known: Vec<&str> = known.lines().map(str::trim).collect();
    let is_key = |line: &&str| !line.is_empty() && !line.starts_with('#');
    match token.signers.lines().map(str::trim).filter(is_key).find(|line| !known.contains(line)) {
        None => Ok(()),
        Some(stranger) => {
            let who = stranger.split_whitespace().next().unwrap_or_default();
            Err(lie(&format!("{who} as a signer with a key that is not in this clone's allowed_signers")))
        }
    }
}

fn list(devices: &[Device], out: &Out) {
    let rows = devices
        .iter()
        .map(|device| {
            vec![
                device.name.to_string(),
                device.stage.as_ref().map_or("–".into(), StageName::to_string),
                status::condition(device.condition, out),
                device.suite.clone().unwrap_or_else(|| "–".into()),
                ago_or_dash(device.seen_at),
                device.architecture.to_string(),
                device.fingerprint.clone(),
                device.reason.clone(),
            ]
        })
        .collect();
    out.table(
        &["DEVICE", "STAGE", "CONDITION", "SUITE", "SEEN", "ARCH", "FINGERPRINT", "WHY"],
        rows,
        "no devices yet; make a token with: volary device token --stage STAGE",
    );
}
