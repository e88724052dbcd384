//! Drives a homeserver with the crates that Element X is built on: sliding sync of the list of rooms and of encryption,
//! timelines, an encrypted conversation, media, receipts, key backup, verification by emoji, signing in by OAuth 2.0 and
//! by QR code.
//!
//! Usage: rustsdk HOMESERVER, for a server with the users alice and bob, whose passwords are "a password of alice" and
//! "a password of bob". Each step is printed when it has worked; the first that does not ends the program with its
//! reason.

mod conversation;
mod oauth;
mod person;
mod qr;
mod verification;
mod wait;

use std::env;

use anyhow::{Context, Result, ensure};
use conversation::{becomes, body, hears, say, shows};
use matrix_sdk::{
    Room, RoomState,
    media::{MediaFormat, MediaRequestParameters},
    room::edit::EditedContent,
    ruma::{
        OwnedRoomId,
        api::client::{receipt::create_receipt::v3::ReceiptType, room::create_room},
        events::{
            InitialStateEvent,
            room::{
                encryption::RoomEncryptionEventContent,
                message::{MessageType, RoomMessageEventContentWithoutRelation},
            },
        },
    },
};
use matrix_sdk_ui::timeline::{AttachmentConfig, AttachmentSource, Timeline};
use person::Person;

#[tokio::main]
async fn main() -> Result<()> {
    let homeserver = env::args().nth(1).context("usage: rustsdk HOMESERVER")?;
    let alice = Person::sign_in(&homeserver, "alice", "Alice's phone").await?;
    let bob = Person::sign_in(&homeserver, "bob", "Bob's phone").await?;
    alice.is_verified().await?;
    bob.is_verified().await?;
    step("both are signed in, and have cross-signed their devices");

    let room = encrypted_room(&alice, &bob).await?;
    let (a, b) = (alice.open(&room).await?, bob.open(&room).await?);
    talk(&a, &b).await?;
    thread(&alice, &bob, &room).await?;
    media(&a, &b).await?;
    receipts(&bob, &a, &b).await?;
    backup(&homeserver, &alice, &room).await?;
    emoji(&homeserver, &bob).await?;
    invite_is_declined(&alice, &bob).await?;
    lists_survive_a_pause(&alice, &bob, &room).await?;
    qr::existing_device_shows(&alice).await?;
    qr::new_device_shows(&homeserver, &alice).await?;
    alice.must_be_running()?;
    bob.must_be_running()?;
    alice.sync.stop().await;
    bob.sync.stop().await;
    step("both syncs ran until the end");
    oauth::session(&homeserver, "alice").await
}

fn step(what: &str) {
    println!("ok: {what}");
}

/// Alice creates an encrypted room and invites Bob, who joins it from his list of rooms.
async fn encrypted_room(alice: &Person, bob: &Person) -> Result<OwnedRoomId> {
    let id = alice.client.create_room(room_of("Kitchen", bob)).await?.room_id().to_owned();
    alice.listed(&id).await?;
    let invited = bob.listed(&id).await?;
    ensure!(invited.state() == RoomState::Invited, "the list shows {:?}", invited.state());
    wait::until("the invitation names the room", async || (invited.name()? == "Kitchen").then_some(())).await?;
    let inviter = invited.invite_details().await?.inviter.context("nobody invites")?;
    ensure!(inviter.user_id() == alice.id(), "{} invites", inviter.user_id());
    invited.join().await?;
    wait::until("Bob has joined", async || (invited.state() == RoomState::Joined).then_some(())).await?;
    wait::until("Alice sees two members", async || {
        (alice.client.get_room(&id)?.joined_members_count() == 2).then_some(())
    })
    .await?;
    ensure!(invited.latest_encryption_state().await?.is_encrypted(), "the room is not encrypted");
    step("an encrypted room is created, shown in the list, and joined by invitation");
    Ok(id)
}

fn room_of(name: &str, guest: &Person) -> create_room::v3::Request {
    let mut request = create_room::v3::Request::new();
    request.name = Some(name.to_owned());
    request.invite = vec![guest.id().to_owned()];
    request.preset = Some(create_room::v3::RoomPreset::PrivateChat);
    let encryption = RoomEncryptionEventContent::with_recommended_defaults();
    request.initial_state = vec![InitialStateEvent::with_empty_state_key(encryption).to_raw_any()];
    request
}

/// Both write, and react to, edit, answer and delete messages.
async fn talk(a: &Timeline, b: &Timeline) -> Result<()> {
    let first = say(a, "The kettle is on").await?;
    let heard = hears(b, "The kettle is on").await?;
    ensure!(heard.encryption_info().is_some(), "the message was not encrypted");
    step("an encrypted message is read");

    b.send_reply(RoomMessageEventContentWithoutRelation::text_plain("I bring milk"), first.clone()).await?;
    let reply = hears(a, "I bring milk").await?;
    ensure!(
        reply.content().in_reply_to().is_some_and(|to| to.event_id == first),
        "the reply is to another message"
    );
    b.toggle_reaction(&heard.identifier(), "🫖").await?;
    becomes(a, "the reaction is shown", &first, |e| e.content().reactions().is_some_and(|r| r.get("🫖").is_some())).await?;
    step("a reply and a reaction arrive");

    let new = EditedContent::RoomMessage(RoomMessageEventContentWithoutRelation::text_plain("The kettle whistles"));
    let mine = hears(a, "The kettle is on").await?;
    a.edit(&mine.identifier(), new).await?;
    becomes(b, "the edit is shown", &first, |e| body(e) == Some("The kettle whistles")).await?;
    step("an edit arrives");

    let slip = say(a, "A slip of the tongue").await?;
    let item = hears(b, "A slip of the tongue").await?;
    ensure!(item.event_id() == Some(&*slip), "another event has the text");
    a.redact(&hears(a, "A slip of the tongue").await?.identifier(), None).await?;
    becomes(b, "the message is gone", &slip, |e| e.content().is_redacted()).await?;
    step("a deleted message goes from the other timeline");
    Ok(())
}

/// Bob answers in a thread, and Alice finds it by the summary at its root.
async fn thread(alice: &Person, bob: &Person, room: &OwnedRoomId) -> Result<()> {
    let (a, b) = (alice.open(room).await?, bob.open(room).await?);
    let root = say(&a, "What shall we cook?").await?;
    hears(&b, "What shall we cook?").await?;
    let inside = bob.open_thread(room, &root).await?;
    say(&inside, "Soup").await?;
    becomes(&a, "the root has a summary", &root, |e| e.content().thread_summary().is_some_and(|s| s.num_replies == 1)).await?;
    let read = alice.open_thread(room, &root).await?;
    read.paginate_backwards(20).await?;
    hears(&read, "Soup").await?;
    step("a thread is written, summarised and read");
    Ok(())
}

/// Alice sends an encrypted file, and Bob downloads and decrypts it.
async fn media(a: &Timeline, b: &Timeline) -> Result<()> {
    let data = b"flour, eggs, butter".to_vec();
    let source = AttachmentSource::Data { bytes: data.clone(), filename: "list.txt".to_owned() };
    a.send_attachment(source, mime::TEXT_PLAIN, AttachmentConfig::default()).await?;
    let item = hears(b, "list.txt").await?;
    let MessageType::File(file) = item.content().as_message().context("no message")?.msgtype().clone() else {
        anyhow::bail!("the attachment is no file");
    };
    let request = MediaRequestParameters { source: file.source, format: MediaFormat::File };
    let got = b.room().client().media().get_media_content(&request, false).await?;
    ensure!(got == data, "{} bytes came instead", got.len());
    step("an encrypted file is sent and read");
    Ok(())
}

/// Bob reads, which Alice sees, and his count of unread messages is zero.
async fn receipts(bob: &Person, a: &Timeline, b: &Timeline) -> Result<()> {
    let last = say(a, "Are you there?").await?;
    hears(b, "Are you there?").await?;
    b.send_single_receipt(ReceiptType::Read, last.clone()).await?;
    becomes(a, "Bob's receipt is shown", &last, |e| e.read_receipts().contains_key(bob.id())).await?;
    let room: &Room = b.room();
    wait::until("nothing is unread", async || (room.unread_notification_counts().notification_count == 0).then_some(()))
        .await?;
    step("a read receipt is seen, and clears the count");
    Ok(())
}

/// Alice sets up recovery, and a new device of hers reads old messages with the recovery key.
async fn backup(homeserver: &str, alice: &Person, room: &OwnedRoomId) -> Result<()> {
    let key = alice.client.encryption().recovery().enable().wait_for_backups_to_upload().await?;
    let tablet = Person::sign_in(homeserver, "alice", "Alice's tablet").await?;
    tablet.client.encryption().recovery().recover(&key).await?;
    tablet.is_verified().await?;
    let old = tablet.open(room).await?;
    old.paginate_backwards(50).await?;
    hears(&old, "The kettle whistles").await?;
    ensure!(tablet.history(room).await? > 5, "the history is short");
    tablet.sync.stop().await;
    tablet.client.matrix_auth().logout().await?;
    step("a new device restores the keys from the backup and reads old messages");
    Ok(())
}

/// A new device of Bob's is verified by comparing emoji.
async fn emoji(homeserver: &str, bob: &Person) -> Result<()> {
    let laptop = Person::sign_in(homeserver, "bob", "Bob's laptop").await?;
    verification::compare_emoji(&laptop, bob).await?;
    laptop.is_verified().await?;
    ensure!(laptop.session()?.meta.user_id == bob.id(), "another user is signed in");
    laptop.sync.stop().await;
    laptop.client.matrix_auth().logout().await?;
    step("a new device is verified by emoji");
    Ok(())
}

/// Bob declines an invitation, and is thrown out of a room: both leave his list.
async fn invite_is_declined(alice: &Person, bob: &Person) -> Result<()> {
    let id = alice.client.create_room(room_of("Cellar", bob)).await?.room_id().to_owned();
    let invited = bob.listed(&id).await?;
    invited.leave().await?;
    wait::until("the invitation is gone", async || (invited.state() == RoomState::Left).then_some(())).await?;
    let id = alice.client.create_room(room_of("Attic", bob)).await?.room_id().to_owned();
    let joined = bob.listed(&id).await?;
    joined.join().await?;
    wait::until("Bob is in the attic", async || (joined.state() == RoomState::Joined).then_some(())).await?;
    alice.room(&id).await?.kick_user(bob.id(), Some("It is dusty")).await?;
    wait::until("Bob is out", async || (joined.state() == RoomState::Left).then_some(())).await?;
    step("a declined invitation and a kick end in the list of rooms");
    Ok(())
}

/// Bob's sync pauses, as that of a phone in a pocket, and goes on where it was.
async fn lists_survive_a_pause(alice: &Person, bob: &Person, room: &OwnedRoomId) -> Result<()> {
    bob.sync.stop().await;
    let a = alice.open(room).await?;
    for n in 1..=30 {
        say(&a, &format!("while you were away, {n}")).await?;
    }
    bob.sync.start().await;
    let b = bob.open(room).await?;
    hears(&b, "while you were away, 30").await?;
    while !b.paginate_backwards(50).await? {}
    for n in 1..=30 {
        hears(&b, &format!("while you were away, {n}")).await?;
    }
    shows(&b, "the beginning is still there", |e| body(e) == Some("The kettle whistles")).await?;
    step("a device that was away gets what it missed");
    Ok(())
}
