//! What nodes tell each other on a channel. Only hints: whoever misses one finds out by himself a
//! little later.

use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{Shared, json::to_json};
use crate::stream::StreamKey;

/// After so long without a word the subscription is made anew: its connection may be dead.
const SILENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);
/// The longest message that is read, in bytes. The longest stream and server keys fit twice.
const MAX_MESSAGE: usize = 16 * 1024;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Event {
    /// A stream was placed or moved. The scripts write it.
    Placed { node: String, stream: String, server: String, epoch: String, from: String },
    /// An origin came, went, or changed its state.
    Origins { node: String },
}

impl Shared {
    /// Tells other nodes, if that is possible now.
    pub async fn tell(&self, event: &Event) {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.keys.events()).arg(to_json(event));
        if let Err(error) = self.link.run(&publish).await {
            tracing::debug!(%error, "event not published");
        }
    }

    /// Listens to other nodes, for ever.
    pub async fn listen(&self) {
        let channel = self.keys.events();
        loop {
            match self.link.subscriber(&channel).await {
                Ok(subscriber) => {
                    let (_sink, mut messages) = subscriber.split();
                    // What was said before is over.
                    self.origins_changed.notify_one();
                    self.renew_all();
                    while let Ok(Some(message)) = timeout(SILENCE, messages.next()).await {
                        self.hear(message.get_payload_bytes());
                    }
                }
                Err(error) => tracing::debug!(%error, "event subscription failed"),
            }
            sleep(PAUSE).await;
        }
    }

    fn hear(&self, message: &[u8]) {
        if message.len() > MAX_MESSAGE {
            return;
        }
        match serde_json::from_slice(message) {
            Ok(Event::Placed { node, stream, server, epoch, from }) if node != self.node => {
                let origin = self.keys.server_id(server.as_bytes());
                let (Ok(stream), Some(origin), Ok(epoch)) = (StreamKey::from_shared(&stream), origin, epoch.parse())
                else {
                    return;
                };
                self.with(|state, now, _| {
                    if state.origins.get(&origin).is_some() {
                        state.loads.placed(self.keys.server_id(from.as_bytes()).as_ref(), &origin);
                    }
                    state.usage.moved(&stream, &origin, epoch);
                    state.last_seen.moved(&stream, &origin, epoch, now);
                    state.min_epoch = state.min_epoch.max(epoch);
                });
            }
            Ok(Event::Origins { node }) if node != self.node => self.origins_changed.notify_one(),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a message on the channel is not ours"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_scripts_write_is_read() {
        let text = r#"{"from":"","stream":"v/app/s","kind":"placed","node":"n","epoch":"12","server":"k"}"#;
        let event = Event::Placed {
            node: "n".into(),
            stream: "v/app/s".into(),
            server: "k".into(),
            epoch: "12".into(),
            from: String::new(),
        };
        assert_eq!(serde_json::from_str::<Event>(text).unwrap(), event);
    }
}
