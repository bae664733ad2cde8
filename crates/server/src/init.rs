//! Makes the folder of a new server: all of it, or nothing.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use volary_api::v1::fleet::Role;
use volary_fleet::{FleetConfig, TemplateValues, write_template};
use volary_host::{Cmd, FileError};
use volary_store::Store;

use crate::config::Config;
use crate::depot::Depot;
use crate::http::auth::{hash, new_secret, role_text};
use crate::tls::authority::Authority;
use crate::{Layout, ServerError, evidence, hook, repository};

/// The file of the operator's key if `init` makes it.
const OPERATOR_KEY: &str = "operator_ed25519";

/// What a new server should be.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The fleet's name.
    pub fleet: String,
    /// Names and addresses under which clients reach it; the first is used in links.
    pub hosts: Vec<String>,
    /// The port to listen on.
    pub port: u16,
    /// The operator's SSH private key; its public part stands beside it with `.pub`, or is read
    /// from it. Without one a new key is made in the server's folder.
    pub signing_key: Option<PathBuf>,
    /// Who the operator is in the fleet's `allowed_signers`: an address such as `me@example.com`.
    pub operator: String,
}

/// What `init` made.
#[derive(Debug, Clone)]
pub struct Initialised {
    /// The folder.
    pub dir: PathBuf,
    /// Where the server will be.
    pub url: String,
    /// The client configuration of the operator, with an administrator's token.
    pub client_config: PathBuf,
    /// The key that signed the first commit.
    pub signing_key: PathBuf,
    /// True if that key was made just now.
    pub made_key: bool,
    /// The address of the fleet repository.
    pub fleet_url: String,
}

/// `client.toml`.
#[derive(Serialize)]
struct ClientConfig {
    server: String,
    ca: PathBuf,
    token: String,
    signing_key: PathBuf,
}

/// Makes a server's folder in `dir`, which must not be there or be empty.
///
/// # Errors
/// [`ServerError`]; then `dir` is as it was.
pub fn init(dir: &Path, options: &InitOptions) -> Result<Initialised, ServerError> {
    let config = Config::new(options.fleet.clone(), options.hosts.clone(), options.port);
    config.check().map_err(ServerError::Option)?;
    check_principal(&options.operator)?;
    let dir = std::path::absolute(dir).map_err(FileError::at("find", dir))?;
    if !is_absent_or_empty(&dir)? {
        return Err(ServerError::NotEmpty(dir));
    }
    let parent = dir.parent().unwrap_or(Path::new("/"));
    volary_host::create_dir(parent)?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Beside it, so that the rename at the end stays within one file system.
    let draft = parent.join(format!(".{name}.volary-init.{}", std::process::id()));
    let made = fill(&draft, &dir, &config, options).and_then(|made| {
        fs::rename(&draft, &dir).map_err(FileError::at("make", &dir))?;
        volary_host::sync_dir(parent)?;
        Ok(made)
    });
    if made.is_err() {
        // The first error is what counts; a rest that stays is named like a rest.
        let _ = fs::remove_dir_all(&draft);
    }
    made
}

fn is_absent_or_empty(dir: &Path) -> Result<bool, FileError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(FileError::at("read", dir)(error)),
    }
}

fn check_principal(text: &str) -> Result<(), ServerError> {
    let plain = |c: char| c.is_ascii_graphic() && !"*?!,\"#".contains(c);
    if text.is_empty() || text.len() > 200 || !text.chars().all(plain) {
        return Err(ServerError::Option(format!(
            "the operator {text:?} cannot stand in allowed_signers; use an address such as me@example.com"
        )));
    }
    Ok(())
}

fn fill(
    draft: &Path,
    dir: &Path,
    config: &Config,
    options: &InitOptions,
) -> Result<Initialised, ServerError> {
    let layout = Layout::new(draft);
    let make =
        |path: &Path| DirBuilder::new().mode(0o700).create(path).map_err(FileError::at("create", path));
    make(draft)?;
    for name in ["ca", "tls", "git", "git/sources", "mirrors", "builds", "uploads", "uploaders"] {
        make(&draft.join(name))?;
    }
    let authority = Authority::create(&layout, &config.fleet)?;
    authority.renew_server(&layout, &config.hosts)?;
    let depot = Depot::create(&layout.archive(), &config.fleet, volary_host::now())?;
    let key = operator_key(&layout, options)?;
    let evidence = evidence::key(&layout).map_err(ServerError::Option)?;
    let values = TemplateValues {
        fleet_name: config.fleet.clone(),
        signers: format!(
            "{} namespaces=\"git\" {}\n{}\n",
            options.operator,
            key.public,
            evidence.signers_line(evidence::PRINCIPAL)
        ),
        archive_key: depot.public_key(),
        archive_url: format!("{}/archive", config.url()),
        ca_certificate: Some(authority.certificate().to_owned()),
    };
    fleet_repository(&layout, &values, &key.private, &options.operator)?;
    let token = new_secret();
    first_records(&layout, &token)?;
    volary_host::write_atomic(&layout.config(), config.text().as_bytes(), 0o600)?;
    let client = ClientConfig {
        server: config.url(),
        ca: PathBuf::from("ca/ca.pem"),
        token,
        signing_key: if key.made { PathBuf::from(OPERATOR_KEY) } else { key.private.clone() },
    };
    let client = toml::to_string(&client).expect("a client configuration is plain values");
    volary_host::write_atomic(&layout.client_config(), client.as_bytes(), 0o600)?;
    let final_layout = Layout::new(dir);
    Ok(Initialised {
        client_config: final_layout.client_config(),
        signing_key: if key.made { dir.join(OPERATOR_KEY) } else { key.private },
        made_key: key.made,
        url: config.url(),
        fleet_url: format!("{}/git/fleet.git", config.url()),
        dir: dir.to_owned(),
    })
}

struct OperatorKey {
    private: PathBuf,
    /// Type and key, without a comment.
    public: String,
    made: bool,
}

fn operator_key(layout: &Layout, options: &InitOptions) -> Result<OperatorKey, ServerError> {
    let (private, made) = match &options.signing_key {
        Some(path) => (path.canonicalize().map_err(FileError::at("read", path))?, false),
        None => {
            let path = layout.root().join(OPERATOR_KEY);
            Cmd::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", &options.operator, "-f"])
                .arg(&path)
                .check()?;
            (path, true)
        }
    };
    let beside = PathBuf::from(format!("{}.pub", private.display()));
    let text = if beside.is_file() {
        volary_host::read_to_string(&beside)?
    } else {
        // Without a terminal ssh-keygen fails on a key with a passphrase, and says so.
        Cmd::new("ssh-keygen").args(["-y", "-f"]).arg(&private).check()?.text()
    };
    let mut words = text.split_whitespace();
    match (words.next(), words.next()) {
        (Some(kind), Some(key)) if kind.contains("ssh") || kind.contains("ecdsa") => {
            Ok(OperatorKey { private, public: format!("{kind} {key}"), made })
        }
        _ => Err(ServerError::Option(format!("{} holds no SSH public key", beside.display()))),
    }
}

/// The fleet repository with its first commit, signed by the operator, on the branch of each stage.
fn fleet_repository(
    layout: &Layout,
    values: &TemplateValues,
    key: &Path,
    operator: &str,
) -> Result<(), ServerError> {
    let work = layout.root().join("template");
    write_template(&work, values)?;
    let text = volary_host::read_to_string(&work.join(volary_fleet::CONFIG_FILE))?;
    let config = FleetConfig::parse(&text)
        .map_err(|error| ServerError::Fleet { path: work.clone(), detail: error.to_string() })?;
    let first = &config.first().branch;
    let git = |args: &[&str]| {
        Cmd::new("git")
            .cwd(&work)
            .args(["-c", "user.name=Volary operator", "-c", &format!("user.email={operator}")])
            .args(["-c", "gpg.format=ssh", "-c", &format!("user.signingkey={}", key.display())])
            .args(["-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false"])
            .args(args)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env_remove("GIT_DIR")
            .check()
    };
    git(&["init", "--quiet", "--initial-branch", first])?;
    git(&["add", "--all"])?;
    let message = format!(
        "Begin the fleet {}\n\nThe template of volary {}.\n",
        values.fleet_name,
        env!("CARGO_PKG_VERSION")
    );
    git(&["commit", "--quiet", "--gpg-sign", "--message", &message])?;
    let bare = layout.fleet();
    repository::create(&bare, first)?;
    let bare_text = bare.display().to_string();
    let mut push = vec!["push".to_owned(), "--quiet".to_owned(), bare_text];
    push.extend(config.stages.iter().map(|stage| format!("HEAD:refs/heads/{}", stage.branch)));
    git(&push.iter().map(String::as_str).collect::<Vec<_>>())?;
    install_hook(&bare)?;
    fs::remove_dir_all(&work).map_err(FileError::at("remove", &work))?;
    Ok(())
}

/// Writes the hook of the fleet repository.
pub(crate) fn install_hook(bare: &Path) -> Result<(), FileError> {
    let hooks = bare.join("hooks");
    volary_host::create_dir(&hooks)?;
    volary_host::write_atomic(&hooks.join("pre-receive"), hook::script().as_bytes(), 0o755)
}

fn first_records(layout: &Layout, token: &str) -> Result<(), ServerError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServerError::Start)?;
    runtime.block_on(async {
        let store = Store::open(&layout.database()).await?;
        let now = volary_host::now();
        store.add_token("admin", role_text(Role::Admin), &hash(token), None, now).await?;
        store.add_event(now, "server-made", "server", "this server was made", None).await?;
        store.close().await;
        Ok(())
    })
}
