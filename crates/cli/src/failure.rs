//! What ends a command early: a sentence, its causes, a remedy and an exit status.

use volary_api::client::ClientError;

/// The sentence that stands after "error:", with the causes below it.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub error: anyhow::Error,
    /// What to do about it.
    pub help: Option<String>,
    no: bool,
}

impl Failure {
    /// A failure with a remedy.
    pub fn with_help(error: impl Into<anyhow::Error>, help: impl Into<String>) -> Self {
        Self { error: error.into(), help: Some(help.into()), no: false }
    }

    /// Nothing broke, but a gate or a check said no.
    pub fn no(sentence: impl Into<String>, help: Option<String>) -> Self {
        Self { error: anyhow::Error::msg(sentence.into()), help, no: true }
    }

    /// The exit status that stands for it.
    pub fn status(&self) -> u8 {
        if self.no { 3 } else { 1 }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { error, help: None, no: false }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let help = error.help().map(str::to_owned);
        Self { error: error.into(), help, no: false }
    }
}

/// Lets `?` turn the library crates' errors into failures.
macro_rules! from_error {
    ($($type:ty),* $(,)?) => {
        $(impl From<$type> for Failure {
            fn from(error: $type) -> Self {
                anyhow::Error::from(error).into()
            }
        })*
    };
}

from_error!(
    std::io::Error,
    volary_host::CmdError,
    volary_host::FileError,
    volary_model::InvalidName,
    volary_fleet::ObjectError,
    volary_fleet::inventory::InventoryError,
    volary_fleet::inventory::SplitError,
    volary_server::ServerError,
    volary_server::ExportFailure,
    serde_json::Error,
);
