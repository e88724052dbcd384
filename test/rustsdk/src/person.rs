//! A user of the server with one device: the SDK's client, and the service that keeps it in sync.

use anyhow::{Context, Result, bail};
use matrix_sdk::{
    Client, Room, ThreadingSupport,
    authentication::matrix::MatrixSession,
    encryption::{BackupDownloadStrategy, EncryptionSettings, VerificationState},
    room::MessagesOptions,
    ruma::{RoomId, UserId},
    sliding_sync::VersionBuilder,
};
use matrix_sdk_ui::{
    room_list_service::{RoomListLoadingState, filters::new_filter_non_left},
    sync_service::{State, SyncService},
    timeline::{RoomExt, Timeline, TimelineFocus},
};

use crate::wait;

pub struct Person {
    pub client: Client,
    pub sync: SyncService,
}

impl Person {
    /// Signs in with a password as a new device, and starts to sync as Element X does: a sliding sync of the list of
    /// rooms, and another one for encryption.
    pub async fn sign_in(homeserver: &str, user: &str, device: &str) -> Result<Self> {
        let client = Client::builder()
            .homeserver_url(homeserver)
            .sliding_sync_version_builder(VersionBuilder::DiscoverNative)
            .with_encryption_settings(EncryptionSettings {
                auto_enable_cross_signing: true,
                backup_download_strategy: BackupDownloadStrategy::AfterDecryptionFailure,
                auto_enable_backups: false, // recovery().enable() makes the backup
            })
            .with_threading_support(ThreadingSupport::Enabled { with_subscriptions: true })
            .build()
            .await
            .context("the server is not fit for Element X")?;
        let password = format!("a password of {user}");
        client.matrix_auth().login_username(user, &password).initial_device_display_name(device).await?;
        client.event_cache().subscribe()?;
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        let sync = SyncService::builder(client.clone()).build().await?;
        sync.start().await;
        Ok(Self { client, sync })
    }

    pub fn id(&self) -> &UserId {
        self.client.user_id().expect("signed in")
    }

    pub fn session(&self) -> Result<MatrixSession> {
        self.client.matrix_auth().session().context("no session")
    }

    /// Fails if the sync has stopped.
    pub fn must_be_running(&self) -> Result<()> {
        match self.sync.state().get() {
            State::Running => Ok(()),
            other => bail!("the sync of {} is {other:?}", self.id()),
        }
    }

    /// Waits until the list of rooms is loaded and shows the room.
    pub async fn listed(&self, room: &RoomId) -> Result<Room> {
        let list = self.sync.room_list_service().all_rooms().await?;
        wait::until("the list of rooms is loaded", async || {
            matches!(list.loading_state().get(), RoomListLoadingState::Loaded { .. }).then_some(())
        })
        .await?;
        let (entries, control) = list.entries_with_dynamic_adapters(20);
        control.set_filter(Box::new(new_filter_non_left()));
        let shown = wait::item(&format!("{room} is in the list of rooms"), entries, |diffs| {
            diffs.into_iter().flat_map(wait::values).find(|entry| entry.room_id() == room)
        })
        .await?;
        Ok(shown.into_inner())
    }

    /// Waits until the client knows the room, in whatever way the user is in it.
    pub async fn room(&self, room: &RoomId) -> Result<Room> {
        wait::until(&format!("{} has {room}", self.id()), async || self.client.get_room(room)).await
    }

    /// Opens the room: subscribes to it, so that the server sends more of it, and returns its timeline.
    pub async fn open(&self, room: &RoomId) -> Result<Timeline> {
        self.sync.room_list_service().subscribe_to_rooms(&[room]).await;
        Ok(self.room(room).await?.timeline().await?)
    }

    /// Opens a thread of the room.
    pub async fn open_thread(&self, room: &RoomId, root: &matrix_sdk::ruma::EventId) -> Result<Timeline> {
        let focus = TimelineFocus::Thread { root_event_id: root.to_owned() };
        Ok(self.room(room).await?.timeline_builder().with_focus(focus).build().await?)
    }

    /// Waits until the device is signed by its user, as it is after cross-signing was set up or another device
    /// verified it.
    pub async fn is_verified(&self) -> Result<()> {
        let state = self.client.encryption().verification_state();
        wait::until(&format!("{} is verified", self.id()), async || {
            (state.get() == VerificationState::Verified).then_some(())
        })
        .await
    }

    /// Reads the room's history from the server, without what the client remembers, and returns the number of events.
    pub async fn history(&self, room: &RoomId) -> Result<usize> {
        let messages = self.room(room).await?.messages(MessagesOptions::backward()).await?;
        Ok(messages.chunk.len())
    }
}
