//! Verification by emoji, with both sides in one program.

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use matrix_sdk::encryption::verification::{
    SasState, SasVerification, Verification, VerificationRequest, VerificationRequestState,
};

use crate::{person::Person, wait};

/// Verifies a new device of a user by another one: the new device asks, the other one accepts, both show the same
/// emoji and confirm.
pub async fn compare_emoji(asking: &Person, accepting: &Person) -> Result<()> {
    tokio::try_join!(knows(asking, accepting), knows(accepting, asking))?;
    let encryption = asking.client.encryption();
    let identity = encryption.get_user_identity(asking.id()).await?.context("the user has no identity")?;
    let request = identity.request_verification().await?;
    let received = wait::until("the request arrives", async || {
        accepting.client.encryption().get_verification_request(asking.id(), request.flow_id()).await
    })
    .await?;
    received.accept().await?;
    ready(&request).await?;
    let ours = request.start_sas().await?.context("emoji cannot be compared")?;
    let theirs = transitioned(&received).await?;
    theirs.accept().await?;
    let (shown, seen) = tokio::try_join!(emoji(&ours), emoji(&theirs))?;
    ensure!(shown == seen, "the devices show different emoji: {shown:?}, {seen:?}");
    ours.confirm().await?;
    theirs.confirm().await?;
    tokio::try_join!(done(&ours), done(&theirs))?;
    Ok(())
}

/// Waits until a device has the keys of another device of its user; it ignores requests of unknown devices.
async fn knows(one: &Person, other: &Person) -> Result<()> {
    let id = other.client.device_id().context("signed in")?;
    wait::until("the devices know each other", async || {
        one.client.encryption().get_device(other.id(), id).await.ok().flatten().map(drop)
    })
    .await
}

async fn ready(request: &VerificationRequest) -> Result<()> {
    wait::until("the request is accepted", async || request.is_ready().then_some(())).await
}

async fn transitioned(request: &VerificationRequest) -> Result<SasVerification> {
    wait::until("the comparison starts", async || match request.state() {
        VerificationRequestState::Transitioned { verification: Verification::SasV1(sas) } => Some(sas),
        _ => None,
    })
    .await
}

async fn emoji(sas: &SasVerification) -> Result<Vec<&'static str>> {
    wait::until("the emoji are there", async || sas.emoji().map(|e| e.iter().map(|one| one.symbol).collect())).await
}

async fn done(sas: &SasVerification) -> Result<()> {
    let mut changes = sas.changes();
    loop {
        match sas.state() {
            SasState::Done { .. } => return Ok(()),
            SasState::Cancelled(why) => bail!("the verification is cancelled: {}", why.reason()),
            _ => {}
        }
        tokio::time::timeout(std::time::Duration::from_secs(60), changes.next())
            .await
            .context("the verification does not end")?;
    }
}
