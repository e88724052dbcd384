//! What is said in a room, as a timeline shows it.

use anyhow::Result;
use matrix_sdk::ruma::{EventId, OwnedEventId, events::room::message::RoomMessageEventContent};
use matrix_sdk_ui::timeline::{EventTimelineItem, Timeline};

use crate::wait;

/// Sends a text, and returns its event ID once the server has stored it.
pub async fn say(timeline: &Timeline, text: &str) -> Result<OwnedEventId> {
    timeline.send(RoomMessageEventContent::text_plain(text).into()).await?;
    let own = |item: &EventTimelineItem| item.is_own() && body(item) == Some(text);
    Ok(shows(timeline, &format!("{text:?} is sent"), own).await?.event_id().expect("remote").to_owned())
}

/// Waits for an event from the server in a timeline.
pub async fn shows(
    timeline: &Timeline,
    what: &str,
    wanted: impl Fn(&EventTimelineItem) -> bool,
) -> Result<EventTimelineItem> {
    wait::until(what, async || {
        let items = timeline.items().await;
        items.iter().filter_map(|item| item.as_event()).find(|e| e.is_remote_event() && wanted(e)).cloned()
    })
    .await
}

/// Waits for a text of somebody. It fails if the text cannot be decrypted within the time.
pub async fn hears(timeline: &Timeline, text: &str) -> Result<EventTimelineItem> {
    shows(timeline, &format!("{text:?} is read"), |e| body(e) == Some(text)).await
}

/// Waits until the event with the ID looks as wanted.
pub async fn becomes(
    timeline: &Timeline,
    what: &str,
    id: &EventId,
    wanted: impl Fn(&EventTimelineItem) -> bool,
) -> Result<EventTimelineItem> {
    shows(timeline, what, |e| e.event_id() == Some(id) && wanted(e)).await
}

/// Returns the text of a message.
pub fn body(item: &EventTimelineItem) -> Option<&str> {
    item.content().as_message().map(|message| message.body())
}
