//! Signing in by OAuth 2.0, as Element X does. The pages are filled in by the program that runs this one: it gets an
//! address on standard output, and answers on standard input with the address to which the browser was sent, or with an
//! empty line after a device was allowed.

use std::io::{BufRead, stdin};

use anyhow::{Context, Result, ensure};
use matrix_sdk::{
    Client,
    authentication::oauth::registration::{ApplicationType, ClientMetadata, Localized, OAuthGrantType},
    ruma::serde::Raw,
    utils::UrlOrQuery,
};

use tokio::task::spawn_blocking;

use crate::step;

const REDIRECT: &str = "http://127.0.0.1/callback";

/// Returns the metadata with which clients register.
pub fn metadata() -> Result<Raw<ClientMetadata>> {
    let mut metadata = ClientMetadata::new(
        ApplicationType::Native,
        vec![OAuthGrantType::AuthorizationCode { redirect_uris: vec![REDIRECT.parse()?] }, OAuthGrantType::DeviceCode],
        Localized::new("https://example.com/".parse()?, []),
    );
    metadata.client_name = Some(Localized::new("Example X".to_owned(), []));
    Ok(Raw::new(&metadata)?)
}

/// Waits until the page that was asked for is filled in, and returns the address to which the browser was sent.
pub async fn answer() -> Result<String> {
    let mut line = String::new();
    spawn_blocking(move || stdin().lock().read_line(&mut line).map(|_| line)).await?.context("no answer")
}

/// Signs a user in on a new device and refreshes the tokens.
pub async fn session(homeserver: &str, user: &str) -> Result<()> {
    let client = Client::builder().homeserver_url(homeserver).handle_refresh_tokens().build().await?;
    let oauth = client.oauth();
    let server = oauth.server_metadata().await.context("the server does not offer OAuth 2.0")?;
    ensure!(server.prompt_values_supported.iter().any(|p| p.as_str() == "create"), "users cannot create accounts");
    let redirect = REDIRECT.replace("127.0.0.1", "127.0.0.1:4711").parse()?; // a port is chosen when it is needed
    let start = oauth.login(redirect, None, Some(metadata()?.into()), None).build().await?;
    println!("open: {}", start.url);
    let callback = answer().await?;
    oauth.finish_login(UrlOrQuery::Url(callback.trim().parse()?)).await?;
    let me = client.whoami().await?;
    ensure!(me.user_id.localpart() == user && me.device_id.as_deref() == client.device_id(), "signed in as {me:?}");
    step("a user signs in by OAuth 2.0");

    let before = client.access_token().context("no access token")?;
    oauth.refresh_access_token().await?;
    ensure!(client.access_token().is_some_and(|now| now != before), "the token stays the same");
    client.whoami().await?;
    step("the tokens are refreshed"); // the SDK revokes tokens only over https, which this server does not have
    Ok(())
}
