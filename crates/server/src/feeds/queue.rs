//! Delivering what waits in a feed's queue: in order, at least once, again and again until the other
//! side has it or will never take it.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use volary_store::{Leaves, Message, NewMessage};

use crate::app::App;
use crate::status_hook::doubled;
use crate::tls::listener::asked_to_stop;

/// How often a queue is looked at, besides when the bell rings.
const LOOK: Duration = Duration::from_secs(5);

/// How many messages are read at once.
const AT_ONCE: u32 = 50;

/// The first wait after a failure, which doubles each time, and the longest: an alert that waits for an
/// hour after the other side is back is of little use.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The longest that the other side may make us wait.
const LONGEST: Duration = Duration::from_secs(3600);

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The other side has it.
    Taken,
    /// It will never take it; why.
    Never(String),
    /// Not now; why, and when it wants to be asked again.
    Later(String, Option<Duration>),
}

/// Somebody who takes messages. Called from a thread that may block.
pub(crate) trait Destination: Send + Sync + 'static {
    /// Hands a message over. `seq` is the same each time the message is tried.
    fn hand_over(&self, message: &Message) -> Answer;

    /// How old a message may become; `None` if its age does not matter.
    fn oldest(&self, message: &[u8]) -> Option<Duration> {
        let _ = message;
        None
    }
}

/// Delivers what waits for a feed, until the server stops.
pub(crate) async fn deliver(
    app: Arc<App>,
    feed: String,
    destination: Arc<dyn Destination>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let wait = match round(&app, &feed, &destination).await {
            Ok(wait) => wait,
            Err(problem) => {
                tracing::error!(feed, %problem, "a feed's queue cannot be read");
                LOOK
            }
        };
        tokio::select! {
            () = asked_to_stop(&mut stop) => return,
            () = tokio::time::sleep(wait) => {}
            () = app.nudges.feeds.notified() => {}
        }
    }
}

/// Delivers until nothing waits or it fails; says how long to wait then.
async fn round(app: &Arc<App>, feed: &str, destination: &Arc<dyn Destination>) -> Result<Duration, String> {
    let text = |error: volary_store::StoreError| error.to_string();
    let record = app.store.feed(feed).await.map_err(text)?;
    if let Some(left) = record.next_at.and_then(|next| left_until(next, volary_host::now())) {
        return Ok(left.min(LOOK));
    }
    let mut attempts = record.attempts;
    loop {
        let messages = app.store.messages(feed, AT_ONCE).await.map_err(text)?;
        if messages.is_empty() || *app.stop.borrow() {
            return Ok(LOOK);
        }
        let mut expired = 0;
        for message in messages {
            let now = volary_host::now();
            if destination.oldest(&message.body).is_some_and(|oldest| is_older(message.at, oldest, now)) {
                app.store.message_leaves(feed, message.seq, Leaves::Dropped, now).await.map_err(text)?;
                expired += 1;
                continue;
            }
            let (seq, worker) = (message.seq, destination.clone());
            let answer = tokio::task::spawn_blocking(move || worker.hand_over(&message))
                .await
                .map_err(|error| format!("it has a bug: {error}"))?;
            let now = volary_host::now();
            match answer {
                Answer::Taken => {
                    app.store.message_leaves(feed, seq, Leaves::Sent, now).await.map_err(text)?;
                    works_again(app, feed, attempts).await.map_err(text)?;
                    attempts = 0;
                }
                Answer::Never(problem) => {
                    app.store.message_leaves(feed, seq, Leaves::Refused, now).await.map_err(text)?;
                    let text = format!("{feed} refused a message, which is lost: {problem}");
                    app.event("feed-refused", feed, &text).await;
                }
                Answer::Later(problem, again_after) => {
                    fails(app, feed, attempts, &problem, again_after).await.map_err(text)?;
                    note_dropped(app, feed, expired, "too old for the other side").await;
                    return Ok(LOOK);
                }
            }
        }
        note_dropped(app, feed, expired, "too old for the other side").await;
    }
}

/// Notes that a feed could be reached, if it could not before.
pub(crate) async fn works_again(
    app: &App,
    feed: &str,
    attempts: u32,
) -> Result<(), volary_store::StoreError> {
    if attempts > 0 {
        app.store.feed_works(feed, volary_host::now()).await?;
        tracing::info!(feed, "the feed works again");
    }
    Ok(())
}

/// Notes that a feed failed after so many attempts in vain, and when it is tried again.
pub(crate) async fn fails(
    app: &App,
    feed: &str,
    attempts: u32,
    problem: &str,
    again_after: Option<Duration>,
) -> Result<(), volary_store::StoreError> {
    if attempts == 0 {
        tracing::warn!(feed, %problem, "the feed fails; it is tried again");
    }
    let now = volary_host::now();
    let wait = again_after
        .map_or_else(|| doubled(FIRST_WAIT, attempts, LONGEST_WAIT), |wait| wait.clamp(FIRST_WAIT, LONGEST));
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    let next = now.checked_add(wait).unwrap_or(Timestamp::MAX);
    app.store.feed_failed(feed, problem.lines().next().unwrap_or_default(), next, now).await
}

/// Puts messages into their queues and wakes those who deliver them.
pub(crate) async fn put(app: &App, messages: &[NewMessage]) -> Result<(), String> {
    let dropped = app.store.enqueue(messages, volary_host::now()).await.map_err(|error| error.to_string())?;
    note_full(app, dropped).await;
    app.nudges.feeds.notify_waiters();
    Ok(())
}

/// Tells what full queues had to drop.
pub(crate) async fn note_full(app: &App, dropped: Vec<(String, u64)>) {
    for (feed, count) in dropped {
        note_dropped(app, &feed, count, "its queue is full; queue_mib in server.toml sets how much waits")
            .await;
    }
}

async fn note_dropped(app: &App, feed: &str, count: u64, why: &str) {
    if count > 0 {
        let messages = volary_plan::text::count(usize::try_from(count).unwrap_or(usize::MAX), "message");
        let text = format!("{feed} lost its oldest {messages}: {why}");
        app.event("feed-dropped", feed, &text).await;
    }
}

/// How long it is until then; `None` if it was before.
fn left_until(then: Timestamp, now: Timestamp) -> Option<Duration> {
    Duration::try_from(then.duration_since(now)).ok().filter(|left| !left.is_zero())
}

fn is_older(at: Timestamp, oldest: Duration, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(at)).is_ok_and(|age| age > oldest)
}
