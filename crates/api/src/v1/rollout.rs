//! Rollouts: how a merged commit reaches the devices of a stage.
//!
//! | route | request → answer |
//! |---|---|
//! | `GET /api/v1/rollouts` | → `Vec<`[`Rollout`]`>`, newest first |
//! | `POST /api/v1/rollouts/{stage}/stop` | [`Say`] → [`Rollout`]: nobody further begins |
//! | `POST /api/v1/rollouts/{stage}/resume` | [`Say`] → [`Rollout`]: goes on in spite of what failed so far |
//! | `POST /api/v1/rollouts/{stage}/next` | [`Say`] → [`Rollout`]: opens the next wave without waiting |

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{CommitId, StageName};

/// A rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rollout {
    /// The stage.
    pub stage: StageName,
    /// The commit.
    pub commit: CommitId,
    /// Whether it goes on.
    pub state: State,
    /// How it stands, in a sentence.
    pub says: String,
    /// The wave that is open, from 1.
    pub wave: usize,
    /// The part of the stage that each wave opens, in hundredths of a percent; empty for one that is over.
    #[serde(default)]
    pub waves: Vec<u16>,
    /// When it began.
    pub began_at: Timestamp,
    /// When the open wave opened.
    pub opened_at: Timestamp,
    /// When the next wave opens if nothing comes between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// When it was finished, or another commit came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Who stopped it; `None` for its figures, or if nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_by: Option<String>,
}

/// Whether a rollout goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "RolloutState"))]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its waves open one after the other.
    Running,
    /// Nobody further begins until a person says so.
    Stopped,
    /// All devices that are heard of have the commit.
    Finished,
    /// Another commit came.
    Superseded,
    /// A newer server has a word for it that this version does not know.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

/// What a person says about a rollout.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "RolloutWord"))]
#[serde(deny_unknown_fields)]
pub struct Say {
    /// Why, in one line.
    pub reason: String,
}
