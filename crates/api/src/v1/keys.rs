//! The archive's keys, for administrators.
//!
//! | route | request → answer |
//! |---|---|
//! | `GET  /api/v1/archive/keys` | → [`Keys`] |
//! | `POST /api/v1/archive/keys` | [`AddKey`] → [`Key`]: it signs from now on |
//! | `POST /api/v1/archive/keys/retire` | [`Retire`] → `Vec<`[`RetiredKey`]`>` |

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The keys that sign every suite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Keys {
    /// Those that sign.
    pub keys: Vec<Key>,
    /// Those that signed once, oldest first.
    pub retired: Vec<RetiredKey>,
    /// False while suites wait to be signed by what the keys are now, since that failed.
    pub all_signed: bool,
    /// All public keys as one armored block: what `.volary/archive.asc` has to be.
    pub public: String,
    /// While a rotation runs: the stages and devices that have none of the keys that stay.
    pub not_yet: Vec<String>,
}

/// A key that signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Key {
    /// 40 upper-case hexadecimal digits.
    pub fingerprint: String,
    /// Whose it is, as it says itself.
    pub user_id: String,
    /// Since when it signs.
    pub since: Timestamp,
    /// When the rotation began that ends it; `None` for a key that stays.
    #[serde(default)]
    pub leaving: Option<Timestamp>,
    /// The command that signs with it; `None` if its secret part lies on the server.
    #[serde(default)]
    pub signer: Option<String>,
}

/// A key that signed once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RetiredKey {
    /// 40 upper-case hexadecimal digits.
    pub fingerprint: String,
    /// Since when it signed.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// Where a new key comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "from", rename_all = "kebab-case", deny_unknown_fields)]
pub enum KeySource {
    /// The server makes it.
    Generate,
    /// An armored secret key without a passphrase.
    Secret {
        /// The key.
        armored: String,
    },
    /// A command of `server.toml` signs with it.
    Signer {
        /// The command's name there.
        name: String,
        /// The armored public key.
        public: String,
    },
}

/// Takes a key in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AddKey {
    /// Where it comes from.
    pub source: KeySource,
    /// The keys that are there leave: this begins a rotation.
    #[serde(default)]
    pub rotate: bool,
}

/// Ends the keys that leave.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Retire {
    /// This key instead of those that leave.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// Also if a stage or a device has none of the keys that stay.
    #[serde(default)]
    pub force: bool,
}
