// What people do with matrix-js-sdk and its Rust crypto, as steps that sdk_test.go calls one by one: it writes
// {"step": NAME, "args": {...}} on a line and reads {"result": ...} or {"error": TEXT}. Each step checks with the SDK's own
// eyes that what was asked has come about. Clients are kept by name (alice, bob, alice-phone) from step to step.
import { createInterface } from "node:readline";
import assert from "node:assert/strict";
import * as sdk from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { VerificationPhase, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/verification.js";
import { SlidingSync } from "matrix-js-sdk/lib/sliding-sync.js";
import { CryptoEvent } from "matrix-js-sdk/lib/crypto-api/index.js";

logger.setLevel("silent", false); // the answers go to standard output; what fails is thrown

const patience = 45_000; // milliseconds; a machine that builds something else at the same time is slow
const clients = new Map(); // name → {client, secretStorageKey, recoveryKey}

/** Waits until probe() gives something true, and returns that. */
async function until(what, probe) {
    const deadline = Date.now() + patience;
    for (;;) {
        const found = await probe();
        if (found) return found;
        if (Date.now() > deadline) throw new Error(`waited in vain for ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 25)); // the SDK offers no event for most of what is awaited
    }
}

const person = (name) => clients.get(name) ?? assert.fail(`there is no ${name}`);

async function start(name, baseUrl, credentials, secretStorageKey) {
    const own = { secretStorageKey, incoming: [] };
    own.client = sdk.createClient({
        baseUrl,
        userId: credentials.user_id,
        deviceId: credentials.device_id,
        accessToken: credentials.access_token,
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => own.secretStorageKey && [Object.keys(keys)[0], own.secretStorageKey],
            cacheSecretStorageKey: (_id, _info, key) => { own.secretStorageKey = key; },
        },
        verificationMethods: ["m.sas.v1"],
    });
    own.client.on(CryptoEvent.VerificationRequestReceived, (request) => own.incoming.push(request));
    await own.client.initRustCrypto({ useIndexedDB: false });
    const options = { initialSyncLimit: 20, threadSupport: true, lazyLoadMembers: true };
    if (process.env.EBB_SDK_SLIDING) {
        const wanted = { timeline_limit: 20, required_state: [["*", "*"]] };
        options.slidingSync = new SlidingSync(baseUrl, new Map([["all", { ranges: [[0, 99]], ...wanted }]]), wanted, own.client, 10_000);
    }
    await own.client.startClient(options);
    clients.set(name, own);
    await until(`${name}'s first sync`, () => own.client.isInitialSyncComplete());
    return { userId: credentials.user_id, deviceId: credentials.device_id };
}

/** The event in the room's timeline as this client sees it, decrypted. */
async function seen(name, roomId, eventId) {
    const { client } = person(name);
    const event = await until(`${eventId} at ${name}`, () => client.getRoom(roomId)?.findEventById(eventId));
    await until(`${eventId} decrypted at ${name}`, () => !event.isBeingDecrypted() && !event.shouldAttemptDecryption() && !event.isDecryptionFailure());
    return event;
}

/** Answers one verification request with emoji at both ends and compares what the two people see. */
async function compareEmoji(request, incoming) {
    await incoming.accept();
    await until("both ends ready", () => request.phase === VerificationPhase.Ready && incoming.phase === VerificationPhase.Ready);
    const ours = await request.startVerification("m.sas.v1");
    const theirs = await until("the other end's verifier", () => incoming.verifier);
    const shown = (verifier) => new Promise((resolve, reject) => {
        const now = verifier.getShowSasCallbacks();
        if (now) return resolve(now);
        verifier.on(VerifierEvent.ShowSas, resolve);
        verifier.on(VerifierEvent.Cancel, () => reject(new Error("the verification was cancelled")));
    });
    const done = Promise.all([ours.verify(), theirs.verify()]);
    const [a, b] = await Promise.race([Promise.all([shown(ours), shown(theirs)]), done.then(() => assert.fail("verified without emoji"))]);
    assert.deepEqual(a.sas.emoji, b.sas.emoji);
    assert.equal(a.sas.emoji.length, 7);
    await Promise.all([a.confirm(), b.confirm()]);
    await done;
    await until("both ends done", () => request.phase === VerificationPhase.Done && incoming.phase === VerificationPhase.Done);
    return a.sas.emoji.map(([, word]) => word);
}

const steps = {
    /** Registers with a registration token, as the two stages that the server names. */
    async register({ name, url, token }) {
        const guest = sdk.createClient({ baseUrl: url });
        const account = { username: name, password: `${name}'s long password`, initial_device_display_name: `${name}'s desk` };
        const refused = await guest.registerRequest(account).then(() => assert.fail("registered without the token"), (e) => e);
        assert.equal(refused.httpStatus, 401);
        assert.ok(refused.data.flows.some((flow) => flow.stages.includes("m.login.registration_token")), JSON.stringify(refused.data));
        const auth = { type: "m.login.registration_token", token, session: refused.data.session };
        return start(name, url, await guest.registerRequest({ ...account, auth }));
    },

    /** Cross-signing keys (the first upload asks for no password), secret storage and a key backup. */
    async bootstrap({ name }) {
        const own = person(name);
        const crypto = own.client.getCrypto();
        await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: (makeRequest) => makeRequest(null) });
        await crypto.bootstrapSecretStorage({
            setupNewSecretStorage: true,
            setupNewKeyBackup: true,
            createSecretStorageKey: async () => {
                own.recoveryKey = await crypto.createRecoveryKeyFromPassphrase();
                return own.recoveryKey;
            },
        });
        assert.ok(await crypto.isCrossSigningReady(), "cross-signing is not ready");
        assert.ok(await crypto.isSecretStorageReady(), "secret storage is not ready");
        const version = await until("an active backup", () => crypto.getActiveSessionBackupVersion());
        const device = await until("the own device to be cross-signed", async () => {
            const status = await crypto.getDeviceVerificationStatus(own.client.getUserId(), own.client.getDeviceId());
            return status?.signedByOwner && status;
        });
        return { backup: version, crossSigned: device.crossSigningVerified };
    },

    async createRoom({ name, encrypted, invite }) {
        const initial_state = encrypted ? [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }] : [];
        const { client } = person(name);
        const { room_id } = await client.createRoom({ name: "Tea", preset: "private_chat", invite, initial_state });
        await until("the room at its creator", () => client.getRoom(room_id));
        if (encrypted) await until("encryption", () => client.getCrypto().isEncryptionEnabledInRoom(room_id));
        return { roomId: room_id };
    },

    /** Sends a sticky event, as the membership of a call, and with a delay the one that ends it. Then more messages than a first sync has. */
    async stick({ name, roomId, key, delay, messages }) {
        const { client } = person(name);
        const sent = await client._unstable_sendStickyEvent(roomId, 3_600_000, null, "org.matrix.msc4143.rtc.member", { msc4354_sticky_key: key });
        if (delay) {
            const content = { msc4354_sticky_key: key, left: true };
            await client._unstable_sendStickyDelayedEvent(roomId, 3_600_000, { delay }, null, "org.matrix.msc4143.rtc.member", content);
        }
        for (let n = 0; n < messages; n++) await client.sendTextMessage(roomId, `message ${n}`);
        return { eventId: sent.event_id };
    },

    /** Waits until a client keeps a sticky event under its key, or one with left. */
    async stuck({ name, roomId, sender, key, left }) {
        const { client } = person(name);
        const event = await until(`the sticky event of ${sender} at ${name}`, () => {
            const found = client.getRoom(roomId)?._unstable_getKeyedStickyEvent(sender, "org.matrix.msc4143.rtc.member", key);
            return found && Boolean(found.getContent().left) === Boolean(left) && found;
        });
        return { eventId: event.getId(), left: event.unstableStickyExpiresAt - Date.now() };
    },

    /** Joins by invite and waits until the named people see it. */
    async join({ name, roomId, seenBy }) {
        const { client } = person(name);
        await until("the invite", () => client.getRoom(roomId)?.getMyMembership() === "invite");
        await client.joinRoom(roomId);
        for (const other of [name, ...seenBy]) {
            await until(`${name} in the room at ${other}`, () => person(other).client.getRoom(roomId)?.getMember(client.getUserId())?.membership === "join");
        }
        return {};
    },

    async awaitMember({ name, roomId, userId }) {
        await until(`${userId} in the room`, () => person(name).client.getRoom(roomId)?.getMember(userId)?.membership === "join");
        return {};
    },

    async send({ name, roomId, body }) {
        return { eventId: (await person(name).client.sendTextMessage(roomId, body)).event_id };
    },

    /** Reads one event, decrypted; says what it was on the wire. */
    async read({ name, roomId, eventId }) {
        const event = await seen(name, roomId, eventId);
        return { body: event.getContent().body, sender: event.getSender(), wireType: event.getWireType(), ciphertext: event.getWireContent().ciphertext };
    },

    async react({ name, roomId, eventId, key }) {
        const content = { "m.relates_to": { rel_type: "m.annotation", event_id: eventId, key } };
        return { eventId: (await person(name).client.sendEvent(roomId, "m.reaction", content)).event_id };
    },

    async edit({ name, roomId, eventId, body }) {
        const content = {
            "msgtype": "m.text", "body": `* ${body}`, "m.new_content": { msgtype: "m.text", body },
            "m.relates_to": { rel_type: "m.replace", event_id: eventId },
        };
        return { eventId: (await person(name).client.sendEvent(roomId, "m.room.message", content)).event_id };
    },

    /** Waits until a reaction and an edit show at the message they belong to. */
    async awaitRelations({ name, roomId, eventId, key, body }) {
        const event = await seen(name, roomId, eventId);
        await until("the edit", () => event.replacingEvent()?.getContent()["m.new_content"]?.body === body);
        const room = person(name).client.getRoom(roomId);
        await until("the reaction", () => {
            const found = room.relations.getChildEventsForEvent(eventId, "m.annotation", "m.reaction");
            return found?.getSortedAnnotationsByKey()?.some(([k, events]) => k === key && events.size === 1);
        });
        return {};
    },

    /** Reads up to a message; the counts go to zero at the reader and the sender sees the receipt. */
    async receipt({ name, roomId, eventId, sender }) {
        const { client } = person(name);
        const event = await seen(name, roomId, eventId);
        await client.sendReadReceipt(event);
        await until("zero unread", () => client.getRoom(roomId).getUnreadNotificationCount("total") === 0);
        await until("the receipt at the sender", () => person(sender).client.getRoom(roomId).hasUserReadEvent(client.getUserId(), eventId));
        return {};
    },

    /** Uploads bytes as a file, and the other person downloads them with a token and in vain without one. */
    async media({ from, to, text }) {
        const { content_uri } = await person(from).client.uploadContent(new Blob([text], { type: "text/plain" }), { name: "notes with spaces.txt", type: "text/plain" });
        const reader = person(to).client;
        const address = reader.mxcUrlToHttp(content_uri, undefined, undefined, undefined, false, true, true);
        const response = await fetch(address, { headers: { Authorization: `Bearer ${reader.getAccessToken()}` } });
        assert.equal(response.status, 200);
        assert.equal(await response.text(), text);
        assert.match(response.headers.get("content-disposition"), /notes%20with%20spaces\.txt|"notes with spaces\.txt"/);
        assert.equal((await fetch(address)).status, 401);
        return { uri: content_uri };
    },

    /** Signs in on a new device with the recovery key, restores the backup and reads an old message with it. */
    async newDevice({ name, of, url, roomId, eventId }) {
        const old = person(of);
        // The SDK uploads keys some seconds after it got them. One session is its own, one is the other person's.
        await until("the keys in the backup", async () => (await old.client.http.authedRequest("GET", "/room_keys/version")).count >= 2);
        const guest = sdk.createClient({ baseUrl: url });
        const credentials = await guest.loginRequest({
            type: "m.login.password", identifier: { type: "m.id.user", user: of }, password: `${of}'s long password`,
            initial_device_display_name: `${of}'s phone`,
        });
        const started = await start(name, url, credentials, old.recoveryKey.privateKey);
        const { client } = person(name);
        const crypto = client.getCrypto();
        const event = await until("the old message", async () => {
            const room = client.getRoom(roomId);
            if (room && !room.findEventById(eventId)) await client.scrollback(room, 30);
            return room?.findEventById(eventId);
        });
        await client.decryptEventIfNeeded(event); // with sliding sync the SDK decrypts only what is unread
        await until("the attempt to decrypt it", () => event.isDecryptionFailure());
        await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
        const restored = await crypto.restoreKeyBackup();
        await until("the old message decrypted", () => !event.isDecryptionFailure() && event.getContent().body);
        return { ...started, imported: restored.imported, total: restored.total, body: event.getContent().body };
    },

    /** Emoji between two devices of one person: afterwards the new one is cross-signed. */
    async verifyOwnDevice({ name, other }) {
        const fresh = person(name).client;
        const request = await fresh.getCrypto().requestOwnUserVerification();
        const incoming = await until("the request at the other device", () => person(other).incoming.find((r) => r.transactionId === request.transactionId));
        const words = await compareEmoji(request, incoming);
        for (const observer of [fresh, person(other).client]) {
            await until("the device to be cross-signed", async () => {
                const status = await observer.getCrypto().getDeviceVerificationStatus(fresh.getUserId(), fresh.getDeviceId());
                return status?.crossSigningVerified;
            });
        }
        return { words };
    },

    /** Emoji between two people in a room: afterwards each trusts the other's identity. */
    async verifyPerson({ name, other, roomId }) {
        const one = person(name).client, two = person(other).client;
        const request = await one.getCrypto().requestVerificationDM(two.getUserId(), roomId);
        const incoming = await until("the request at the other person", () => person(other).incoming.find((r) => r.transactionId === request.transactionId));
        const words = await compareEmoji(request, incoming);
        for (const [observer, about] of [[one, two], [two, one]]) {
            await until("trust in the other person", async () => (await observer.getCrypto().getUserVerificationStatus(about.getUserId())).isCrossSigningVerified());
        }
        return { words };
    },

    async setState({ name, roomId, type, content }) {
        return { eventId: (await person(name).client.sendStateEvent(roomId, type, content, "")).event_id };
    },

    /** The session, for requests that the test makes itself. */
    async session({ name }) {
        const { client } = person(name);
        return { userId: client.getUserId(), deviceId: client.getDeviceId(), accessToken: client.getAccessToken() };
    },

    async logout({ name }) {
        const { client } = person(name);
        await client.logout(true);
        clients.delete(name);
        return {};
    },
};

process.on("unhandledRejection", (reason) => console.error("unhandled:", reason));

for await (const line of createInterface({ input: process.stdin })) {
    const { step, args } = JSON.parse(line);
    let answer;
    try {
        answer = { result: await steps[step](args) };
    } catch (error) {
        answer = { error: `${error.stack ?? error}` };
    }
    process.stdout.write(`@ ${JSON.stringify(answer)}\n`);
}
for (const { client } of clients.values()) client.stopClient();
process.exit(0);
