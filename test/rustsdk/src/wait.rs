//! Waiting for something to become true. Nothing waits longer than a minute.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::{Stream, StreamExt, pin_mut};
use matrix_sdk_ui::eyeball_im::VectorDiff;
use tokio::time::{sleep, timeout};

const LIMIT: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
pub async fn until<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> Result<T> {
    timeout(LIMIT, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .with_context(|| format!("not within {LIMIT:?}: {what}"))
}

/// Returns the first thing that pick finds in the items of a stream.
pub async fn item<I, T>(what: &str, items: impl Stream<Item = I>, pick: impl Fn(I) -> Option<T>) -> Result<T> {
    pin_mut!(items);
    timeout(LIMIT, async {
        while let Some(item) = items.next().await {
            if let Some(found) = pick(item) {
                return Ok(found);
            }
        }
        Err(anyhow!("the stream has ended"))
    })
    .await
    .with_context(|| format!("not within {LIMIT:?}: {what}"))?
    .with_context(|| what.to_owned())
}

/// Returns the values that a change adds to a list.
pub fn values<T: Clone>(diff: VectorDiff<T>) -> Vec<T> {
    match diff {
        VectorDiff::Append { values } | VectorDiff::Reset { values } => values.into_iter().collect(),
        VectorDiff::PushFront { value }
        | VectorDiff::PushBack { value }
        | VectorDiff::Insert { value, .. }
        | VectorDiff::Set { value, .. } => vec![value],
        _ => Vec::new(),
    }
}
