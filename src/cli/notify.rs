//! What the service manager hears of a mount in the foreground (sd_notify): that it answers, how far its queue is,
//! and while a drain moves that it wants more time. Without a service manager all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

use super::status::left_text;
use crate::control::Left;

/// How often the service manager hears how far it is.
pub const NEWS: Duration = Duration::from_secs(2);

/// The line to the service manager.
#[derive(Debug, Default)]
pub struct Manager {
    /// Whether anything is said: a mount in the background is not the process that the manager started.
    is_listening: bool,
    said: String,
}

impl Manager {
    /// Speaks if the environment names a manager's socket and the mount is in the `foreground`.
    pub fn new(foreground: bool) -> Manager {
        Manager { is_listening: foreground && std::env::var_os("NOTIFY_SOCKET").is_some(), said: String::new() }
    }

    /// The mount answers.
    pub fn ready(&mut self, left: &Left) {
        self.say(&[NotifyState::Ready]);
        self.queue(left);
    }

    /// The queue, if that is news.
    pub fn queue(&mut self, left: &Left) {
        self.status(left_text(left));
    }

    /// The mount ends: `left` is being stored, and there should be `time` more for that.
    pub fn draining(&mut self, left: &Left, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        self.say(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
        self.status(format!("stopping: {}", left_text(left)));
    }

    fn status(&mut self, text: String) {
        if text != self.said {
            self.say(&[NotifyState::Status(&text)]);
            self.said = text;
        }
    }

    fn say(&self, states: &[NotifyState]) {
        if self.is_listening
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::debug!(%error, "the service manager cannot be told");
        }
    }
}
