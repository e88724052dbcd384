//! Signing a new device in by a QR code, with both devices in one program. The existing device opens a page on which its
//! user allows the new one; see the comment in oauth.rs about the pages.

use std::future::IntoFuture;

use anyhow::{Context, Error, Result, ensure};
use futures_util::{Stream, StreamExt};
use matrix_sdk::{
    Client,
    authentication::oauth::{
        ClientRegistrationData,
        qrcode::{
            CheckCodeSender, GeneratedQrProgress, GrantLoginProgress, LoginProgress, Msc4108IntentData, QrCodeData,
            QrCodeIntentData, QrProgress,
        },
    },
    encryption::VerificationState,
};
use tokio::{sync::oneshot, try_join};

use crate::{oauth, person::Person, step, wait};

/// What the user carries from one device to the other: the code that one shows, and the digits that the other shows
/// after it has scanned the code.
struct Carried<T> {
    from: Option<oneshot::Sender<T>>,
    to: Option<oneshot::Receiver<T>>,
}

impl<T> Carried<T> {
    fn new() -> Self {
        let (from, to) = oneshot::channel();
        Self { from: Some(from), to: Some(to) }
    }

    fn show(&mut self, value: T) -> Result<()> {
        let from = self.from.take().context("shown twice")?;
        from.send(value).map_err(|_| Error::msg("nobody looks"))
    }

    fn look(&mut self) -> Result<oneshot::Receiver<T>> {
        self.to.take().context("looked at twice")
    }
}

/// Signs a new device in with a code that the existing device shows.
pub async fn existing_device_shows(existing: &Person) -> Result<()> {
    let (mut code, mut digits) = (Carried::<Vec<u8>>::new(), Carried::new());
    let (scanned, mut entered) = (code.look()?, Some(digits.look()?));
    let oauth = existing.client.oauth();
    let grant = oauth.grant_login_with_qr_code().generate();
    let progress = grant.subscribe_to_progress();
    let granting = async { grant.into_future().await.context("the existing device does not sign the new one in") };
    let scanning = async {
        let code = QrCodeData::from_bytes(&scanned.await?)?;
        let QrCodeIntentData::Msc4108 { data: Msc4108IntentData::Reciprocate { server_name }, .. } = code.intent_data()
        else {
            anyhow::bail!("the code does not name the server");
        };
        let new = client(server_name).await?;
        let registration = registration()?;
        let oauth = new.oauth();
        let login = oauth.login_with_qr_code(Some(&registration)).scan(&code);
        let progress = login.subscribe_to_progress();
        let signing_in = async { login.into_future().await.context("the new device is not signed in") };
        let following = follow_login(progress, async |QrProgress { check_code }| digits.show(check_code.to_digit()));
        try_join!(signing_in, following)?;
        Ok(new)
    };
    let following = follow_grant(progress, async |progress| show_code(progress, &mut code, &mut entered).await);
    let ((), (), new) = try_join!(granting, following, scanning)?;
    is_complete(&new, existing).await?;
    step("a new device is signed in by the QR code of another one");
    Ok(())
}

/// Signs a new device in with a code that it shows itself.
pub async fn new_device_shows(homeserver: &str, existing: &Person) -> Result<()> {
    let new = client(homeserver).await?;
    let (mut code, mut digits) = (Carried::<Vec<u8>>::new(), Carried::new());
    let (scanned, mut entered) = (code.look()?, Some(digits.look()?));
    let (old, oauth, registration) = (existing.client.oauth(), new.oauth(), registration()?);
    let login = oauth.login_with_qr_code(Some(&registration)).generate();
    let progress = login.subscribe_to_progress();
    let signing_in = async { login.into_future().await.context("the new device is not signed in") };
    let following = follow_login(progress, async |progress| show_code(progress, &mut code, &mut entered).await);
    let scanning = async {
        let code = QrCodeData::from_bytes(&scanned.await?)?;
        let grant = old.grant_login_with_qr_code().scan(&code);
        let progress = grant.subscribe_to_progress();
        let granting = async { grant.into_future().await.context("the existing device does not sign the new one in") };
        let following = follow_grant(progress, async |QrProgress { check_code }| digits.show(check_code.to_digit()));
        try_join!(granting, following)
    };
    try_join!(signing_in, following, scanning)?;
    is_complete(&new, existing).await?;
    step("a new device is signed in by its own QR code");
    Ok(())
}

/// Shows a code, and enters the digits that the other device shows.
async fn show_code(
    progress: GeneratedQrProgress,
    code: &mut Carried<Vec<u8>>,
    entered: &mut Option<oneshot::Receiver<u8>>,
) -> Result<()> {
    match progress {
        GeneratedQrProgress::QrReady(data) => code.show(data.to_bytes()),
        GeneratedQrProgress::QrScanned(sender) => enter(sender, entered).await,
    }
}

async fn enter(sender: CheckCodeSender, entered: &mut Option<oneshot::Receiver<u8>>) -> Result<()> {
    let digits = entered.take().context("the digits are wanted twice")?.await?;
    Ok(sender.send(digits).await?)
}

/// Does what the new device asks of its user.
async fn follow_login<Q>(
    progress: impl Stream<Item = LoginProgress<Q>>,
    mut connecting: impl AsyncFnMut(Q) -> Result<()>,
) -> Result<()> {
    let mut progress = Box::pin(progress);
    while let Some(state) = progress.next().await {
        match state {
            LoginProgress::EstablishingSecureChannel(shown) => connecting(shown).await?,
            LoginProgress::Done => break,
            _ => {}
        }
    }
    Ok(())
}

/// Does what the existing device asks of its user, up to allowing the new device on the page.
async fn follow_grant<Q>(
    progress: impl Stream<Item = GrantLoginProgress<Q>>,
    mut connecting: impl AsyncFnMut(Q) -> Result<()>,
) -> Result<()> {
    let mut progress = Box::pin(progress);
    while let Some(state) = progress.next().await {
        match state {
            GrantLoginProgress::EstablishingSecureChannel(shown) => connecting(shown).await?,
            GrantLoginProgress::WaitingForAuth { verification_uri } => {
                println!("approve: {verification_uri}");
                oauth::answer().await?;
            }
            GrantLoginProgress::Done => break,
            _ => {}
        }
    }
    Ok(())
}

async fn client(homeserver: &str) -> Result<Client> {
    Ok(Client::builder().server_name_or_homeserver_url(homeserver).handle_refresh_tokens().build().await?)
}

fn registration() -> Result<ClientRegistrationData> {
    Ok(oauth::metadata()?.into())
}

/// Fails unless the new device has what the existing one has: the user, a signature of the user's, and the key backup.
async fn is_complete(new: &Client, existing: &Person) -> Result<()> {
    ensure!(new.user_id() == Some(existing.id()), "{:?} is signed in", new.user_id());
    let me = new.whoami().await?;
    ensure!(me.device_id.as_deref() == new.device_id(), "the token is that of {:?}", me.device_id);
    let state = new.encryption().verification_state();
    wait::until("the new device is verified", async || (state.get() == VerificationState::Verified).then_some(()))
        .await?;
    ensure!(new.encryption().backups().are_enabled().await, "the new device does not have the key of the backup");
    Ok(())
}
