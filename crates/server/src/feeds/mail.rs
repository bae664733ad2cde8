//! People who are told of each change of an alert by e-mail.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::{ContentType, MessageId};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{SmtpTransport, Transport};
use serde::{Deserialize, Serialize};
use volary_plan::alert::{AlertState, Change, details, sentence};
use volary_plan::text;
use volary_store::Message;

use super::queue::{Answer, Destination};
use super::{News, check_queue, default_queue};

/// How long a mail server may take for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// How many devices a mail names.
const DEVICES: usize = 30;

/// Where to send mail, and to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailConfig {
    /// The mail server: a host name or address.
    pub server: String,
    /// Its port; default: 465 for `tls`, 587 for `starttls`, 25 for `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How the connection is protected.
    #[serde(default)]
    pub security: Security,
    /// Its certificate authority (PEM), if it is none that this machine knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The user, where a password is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The file with the user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// The sender: `Volary <volary@example.com>`.
    pub from: String,
    /// The receivers.
    pub to: Vec<String>,
    /// MiB of messages that may wait.
    #[serde(default = "default_queue")]
    pub queue_mib: u32,
}

/// How a connection to a mail server is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Security {
    /// By TLS from its first byte.
    Tls,
    /// By TLS after `STARTTLS`, or there is none.
    #[default]
    Starttls,
    /// Not at all: for a mail server on this machine.
    None,
}

impl MailConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        let address = |text: &String| {
            text.parse::<Mailbox>().map_err(|error| format!("{text:?} is no address of mail: {error}"))
        };
        address(&self.from)?;
        for to in &self.to {
            address(to)?;
        }
        if self.to.is_empty() {
            return Err("to is empty; name at least one receiver".into());
        }
        if self.user.is_some() != self.password_file.is_some() {
            return Err("user and password_file belong together".into());
        }
        if self.user.is_some() && self.security == Security::None {
            return Err("a password is not sent without protection; set security to tls or starttls".into());
        }
        check_queue(self.queue_mib)
    }
}

/// The feed's name.
pub(super) fn feed(name: &str) -> String {
    format!("mail/{name}")
}

/// What waits: the mail without its envelope.
#[derive(Debug, Serialize, Deserialize)]
struct Letter {
    subject: String,
    text: String,
}

/// The mail that tells of it.
pub(super) fn body(news: &News<'_>) -> Vec<u8> {
    let alert = news.alert;
    let heard: Vec<_> = match alert.state {
        AlertState::Pending | AlertState::Firing => alert.heard(news.silences, news.now).collect(),
        AlertState::Resolved => alert.devices.iter().collect(),
    };
    let what = sentence(alert, heard.iter().copied());
    let kind = match news.change {
        Change::Began => alert.severity.as_str(),
        Change::Spread | Change::Worse | Change::Resolved => news.change.as_str(),
    };
    let began = alert.began_at.unwrap_or(alert.since);
    let mut lines = vec![what.clone(), String::new()];
    lines.push(match alert.ended_at {
        None => format!("Since {began:.0}, {}.", alert.severity.as_str()),
        Some(ended) => {
            let lasted = text::duration(Duration::try_from(ended.duration_since(began)).unwrap_or_default());
            format!("From {began:.0} to {ended:.0}, {lasted}; at most {}.", text::count(alert.most, "device"))
        }
    });
    lines.push(String::new());
    lines.extend(details(heard.into_iter(), DEVICES));
    lines.push(String::new());
    lines.push(format!("volary alert show {}", alert.id));
    lines.push(news.url.to_owned());
    let letter = Letter { subject: format!("[{}] {kind}: {what}", news.fleet), text: lines.join("\n") };
    serde_json::to_vec(&letter).expect("a letter is plain data")
}

/// One mail server with receivers.
pub(super) struct Mail {
    root: PathBuf,
    config: MailConfig,
    fleet: String,
}

impl Mail {
    pub(super) fn new(root: &Path, config: MailConfig, fleet: &str) -> Arc<Self> {
        Arc::new(Self { root: root.to_owned(), config, fleet: fleet.to_owned() })
    }

    fn transport(&self) -> Result<SmtpTransport, String> {
        let config = &self.config;
        let text = |error: lettre::transport::smtp::Error| format!("{}: {error}", config.server);
        let parameters = || -> Result<TlsParameters, String> {
            let mut builder = TlsParameters::builder(config.server.clone());
            if let Some(file) = &config.ca_file {
                let pem = volary_host::read(&self.root.join(file)).map_err(|error| error.to_string())?;
                builder = builder.add_root_certificate(Certificate::from_pem(&pem).map_err(text)?);
            }
            builder.build_rustls().map_err(text)
        };
        let (port, tls) = match config.security {
            Security::Tls => (465, Tls::Wrapper(parameters()?)),
            Security::Starttls => (587, Tls::Required(parameters()?)),
            Security::None => (25, Tls::None),
        };
        let mut builder = SmtpTransport::builder_dangerous(&config.server)
            .port(config.port.unwrap_or(port))
            .tls(tls)
            .timeout(Some(LIMIT));
        if let Some((user, file)) = config.user.as_ref().zip(config.password_file.as_ref()) {
            let password =
                volary_host::read_to_string(&self.root.join(file)).map_err(|error| error.to_string())?;
            builder = builder.credentials(Credentials::new(user.clone(), password.trim().to_owned()));
        }
        Ok(builder.build())
    }

    fn letter(&self, message: &Message) -> Result<lettre::Message, String> {
        let letter: Letter = serde_json::from_slice(&message.body).map_err(|error| error.to_string())?;
        let mailbox = |text: &str| text.parse::<Mailbox>().map_err(|error| error.to_string());
        let from = mailbox(&self.config.from)?;
        // The same each time it is tried: a receiver that gets it twice sees it once.
        let id = format!("<volary-{}-{}@{}>", message.seq, message.at.as_second(), from.email.domain());
        let mut builder = lettre::Message::builder()
            .header(MessageId::from(id))
            .header(ContentType::TEXT_PLAIN)
            .date(message.at.into())
            .subject(letter.subject)
            .from(from);
        for to in &self.config.to {
            builder = builder.to(mailbox(to)?);
        }
        builder.body(letter.text).map_err(|error| error.to_string())
    }
}

impl Destination for Mail {
    fn hand_over(&self, message: &Message) -> Answer {
        let letter = match self.letter(message) {
            Ok(letter) => letter,
            Err(problem) => {
                return Answer::Never(format!("a mail of {} cannot be written: {problem}", self.fleet));
            }
        };
        let sent = self.transport().and_then(|transport| {
            transport.send(&letter).map_err(|error| {
                let kind = if error.is_permanent() { "refused it" } else { "cannot be told" };
                format!("{} {kind}: {error}", self.config.server)
            })
        });
        match sent {
            Ok(_) => Answer::Taken,
            // A permanent refusal may be of the receiver or of the sender: somebody must look.
            Err(problem) => Answer::Later(problem, None),
        }
    }
}
