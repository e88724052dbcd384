// Signs in with the OAuth 2.0 code of matrix-js-sdk, as Element Web does, and ends the session again:
//   node oauth.mjs VERSION BASE_URL USER PASSWORD EBB CONFIG
// VERSION is 41 (which uses OpenID Connect and oidc-client-ts), 43, or qr for a new device that is signed in by 43. EBB and CONFIG are the program and its
// configuration, to lock the account. What fails is thrown. The pages are filled in by fetch instead of a browser.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";

const [version, baseUrl, user, password, ebb, config] = process.argv.slice(2);
const redirectUri = "https://app.example.com/callback";
const about = { clientName: "Example", clientUri: "https://example.com/", redirectUris: [redirectUri], applicationType: "web" };

/** A browser: cookies, and redirects that are followed until they leave the server. */
class Browser {
    #cookies = new Map();

    async open(address, form) {
        for (;;) {
            const response = await fetch(address, {
                redirect: "manual",
                headers: { Cookie: [...this.#cookies].map(([name, value]) => `${name}=${value}`).join("; ") },
                ...(form && { method: "POST", body: new URLSearchParams(form) }),
            });
            for (const cookie of response.headers.getSetCookie()) {
                const [, name, value] = cookie.match(/^([^=]+)=([^;]*)/);
                if (/max-age=0|max-age=-/i.test(cookie)) this.#cookies.delete(name);
                else this.#cookies.set(name, value);
            }
            const location = response.headers.get("Location");
            if (!location) return { address, status: response.status, html: await response.text() };
            const next = new URL(location, address);
            if (next.origin !== new URL(baseUrl).origin) return { left: next };
            [address, form] = [next.href, undefined];
        }
    }

    /** Sends the form of a page that has a field or a button, with values for its fields. */
    submit(page, has, fields) {
        const form = page.html.match(/<form[^]*?<\/form>/g)?.find((f) => f.includes(has)) ?? assert.fail(`no ${has} in ${page.status} ${page.html}`);
        const values = {};
        const attribute = (tag, name) => tag.match(new RegExp(`\\b${name}="([^"]*)"`))?.[1].replaceAll("&#43;", "+").replaceAll("&amp;", "&");
        for (const [tag] of form.matchAll(/<input[^>]*type="hidden"[^>]*>/g)) values[attribute(tag, "name")] = attribute(tag, "value");
        const button = [...form.matchAll(/<button[^>]*>/g)].map(([tag]) => tag).find((tag, i, all) => tag.includes(has) || (i === 0 && !all.some((t) => t.includes(has))));
        if (attribute(button, "name")) values[attribute(button, "name")] = attribute(button, "value");
        return this.open(new URL(attribute(form, "action") || page.address, page.address).href, { ...values, ...fields });
    }

    signIn(page) {
        return this.submit(page, 'name="password"', { user, password });
    }
}

/** Walks through the pages from an authorization URL and returns the parameters with which the client is called back. */
async function authorize(address) {
    const browser = new Browser();
    const done = await browser.submit(await browser.signIn(await browser.open(address)), 'value="allow"');
    assert(done.left?.href.startsWith(redirectUri), JSON.stringify(done));
    return new URLSearchParams(done.left.hash ? done.left.hash.slice(1) : done.left.search);
}

/** Approves a device. */
async function approve({ verification_uri_complete }) {
    const browser = new Browser();
    const done = await browser.submit(await browser.signIn(await browser.open(verification_uri_complete)), 'value="allow"');
    assert.equal(done.status, 200, done.html);
}

async function whoami(token) {
    const response = await fetch(`${baseUrl}/_matrix/client/v3/account/whoami`, { headers: { Authorization: `Bearer ${token}` } });
    return response.ok ? await response.json() : response.status;
}

async function works(token, deviceId) {
    const me = await whoami(token);
    assert.equal(me.user_id, `@${user}:localhost`);
    if (deviceId) assert.equal(me.device_id, deviceId);
    return me;
}

/** A refresh while the account is locked must fail without ending the session. */
async function survivesLock(refresh, LogoutError) {
    execFileSync(ebb, ["user", "lock", "--config", config, user]);
    const failure = await refresh().then(() => assert.fail("a locked account gets tokens"), (error) => error);
    assert(!(failure instanceof LogoutError) && !(failure.constructor.name === "MatrixError"), `the session ends: ${failure}`);
    execFileSync(ebb, ["user", "unlock", "--config", config, user]);
}

const deviceOf = (scope) => scope.match(/device:(\S+)/)[1];

const flows = {
    async 41() {
        const storage = new Map();
        const session = { getItem: (k) => storage.get(k) ?? null, setItem: (k, v) => storage.set(k, v), removeItem: (k) => storage.delete(k), key: (i) => [...storage.keys()][i], get length() { return storage.size; } };
        globalThis.window = { sessionStorage: session, location: { origin: "https://app.example.com" } };
        const { createClient, TokenRefreshLogoutError } = await import("matrix-js-sdk-41");
        const oidc = await import("matrix-js-sdk-41/lib/oidc/index.js");
        (await import("matrix-js-sdk-41/lib/logger.js")).logger.setLevel("silent", false);

        const metadata = await createClient({ baseUrl }).getAuthMetadata(); // fails without jwks_uri
        assert.equal(metadata.signingKeys[0].alg, "RS256");
        const clientId = await oidc.registerOidcClient(metadata, about);
        let last;
        for (const responseMode of ["query", "fragment"]) {
            const nonce = `nonce of ${responseMode}`;
            const address = await oidc.generateOidcAuthorizationUrl({ metadata, redirectUri, clientId, homeserverUrl: baseUrl, nonce, responseMode });
            const back = await authorize(address);
            last = await oidc.completeAuthorizationCodeGrant(back.get("code"), back.get("state"), responseMode); // checks the id_token
            assert.equal(last.homeserverUrl, baseUrl);
            assert.equal(last.idTokenClaims.sub, `@${user}:localhost`);
        }
        const { tokenResponse: first, oidcClientSettings, idTokenClaims } = last;
        const { device_id: deviceId } = await works(first.access_token, deviceOf(first.scope));
        const refresher = new oidc.OidcTokenRefresher(oidcClientSettings.issuer, clientId, redirectUri, deviceId, idTokenClaims);
        const second = await refresher.doRefreshAccessToken(first.refresh_token);
        await works(second.accessToken, deviceId);
        await survivesLock(() => refresher.doRefreshAccessToken(second.refreshToken), TokenRefreshLogoutError);
        const third = await refresher.doRefreshAccessToken(second.refreshToken);
        await fetch(metadata.revocation_endpoint, { method: "POST", body: new URLSearchParams({ token: third.refreshToken, client_id: clientId }) });
        assert.equal(await whoami(third.accessToken), 401);
        await assert.rejects(refresher.doRefreshAccessToken(third.refreshToken), TokenRefreshLogoutError);
    },

    async 43() {
        const { createClient, TokenRefreshLogoutError } = await import("matrix-js-sdk");
        const { OAuth2 } = await import("matrix-js-sdk/lib/oauth/index.js");
        const { TokenRefresher } = await import("matrix-js-sdk/lib/oauth/tokenRefresher.js");
        (await import("matrix-js-sdk/lib/logger.js")).logger.setLevel("silent", false);

        const metadata = await createClient({ baseUrl }).getAuthMetadata();
        const clientId = await OAuth2.registerClient(metadata, { client_name: about.clientName, client_uri: about.clientUri, redirect_uris: about.redirectUris, application_type: "web" });
        const auth = new OAuth2(metadata, { clientId });
        let first;
        for (const mode of ["query", "fragment"]) {
            const back = await authorize(await auth.generateAuthorizationCodeGrantUrl("the state", redirectUri, mode));
            assert.equal(back.get("state"), "the state");
            first = await auth.completeAuthorizationCodeGrant(back.get("code"), redirectUri);
        }
        await works(first.access_token, auth.context.deviceId);
        const refresher = new TokenRefresher(auth, () => {});
        const second = await refresher.refreshTokens(first.refresh_token);
        await works(second.accessToken, auth.context.deviceId);
        await survivesLock(() => refresher.refreshTokens(second.refreshToken), TokenRefreshLogoutError);
        const third = await refresher.refreshTokens(second.refreshToken);
        await refresher.revokeToken(third.accessToken, "access_token");
        assert.equal(await whoami(third.accessToken), 401);
        await assert.rejects(refresher.refreshTokens(third.refreshToken), TokenRefreshLogoutError);

        const television = new OAuth2(metadata, { clientId });
        const codes = await television.startDeviceAuthorizationGrant();
        await approve(codes);
        const granted = await television.waitForDeviceAuthorizationGrant(codes);
        await works(granted.access_token, television.context.deviceId);
    },

    /** Signs a new device in by a QR code: the existing one shows it, and then the new one does. */
    async qr() {
        const { createClient } = await import("matrix-js-sdk");
        const { OAuth2 } = await import("matrix-js-sdk/lib/oauth/index.js");
        const qr = await import("matrix-js-sdk/lib/rendezvous/index.js");
        const { QrCodeData } = await import("@matrix-org/matrix-sdk-crypto-wasm");
        (await import("matrix-js-sdk/lib/logger.js")).logger.setLevel("silent", false);

        const metadata = await createClient({ baseUrl }).getAuthMetadata();
        const clientId = await OAuth2.registerClient(metadata, { client_name: about.clientName, client_uri: about.clientUri, redirect_uris: about.redirectUris, application_type: "web" });
        const auth = new OAuth2(metadata, { clientId });
        const back = await authorize(await auth.generateAuthorizationCodeGrantUrl("the state", redirectUri, "fragment"));
        const { access_token: accessToken } = await auth.completeAuthorizationCodeGrant(back.get("code"), redirectUri);
        const existing = createClient({ baseUrl, accessToken, userId: `@${user}:localhost`, deviceId: auth.context.deviceId });
        await existing.initRustCrypto({ useIndexedDB: false });
        await existing.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: (makeRequest) => makeRequest(null) });
        assert(await qr.isSignInWithQRAvailable(existing), "QR is not offered");

        const failed = (reason) => console.error(`the flow fails: ${reason}`);
        const never = new AbortController().signal;
        for (const shows of ["existing", "new"]) {
            const deviceId = `SCANNED${shows.toUpperCase()}`;
            const shown = shows === "existing" ? await qr.linkNewDeviceByGeneratingQR(existing, failed, never) : await qr.signInByGeneratingQR(createClient({ baseUrl }), failed, never);
            const code = QrCodeData.fromBytes(shown.code);
            const channel = new qr.MSC4108SecureChannel(new qr.MSC4108RendezvousSession({ url: code.rendezvousUrl ?? code.rendezvous_url, onFailure: failed }), code.publicKey ?? code.public_key, failed);
            const scans = new qr.MSC4108SignInWithQR(channel, true, shows === "existing" ? undefined : existing, failed);
            const [old, fresh] = shows === "existing" ? [shown, scans] : [scans, shown];
            await Promise.all([shown.negotiateProtocols(), scans.negotiateProtocols()]);
            assert.equal(shown.checkCode, scans.checkCode);
            const [, { verificationUri }] = await Promise.all([fresh.deviceAuthorizationGrant({ metadata, clientId, deviceId }), old.deviceAuthorizationGrant()]);
            await approve({ verification_uri_complete: verificationUri });
            const sharing = old.shareSecrets();
            const tokens = await fresh.completeLoginOnNewDevice({ clientId });
            const [sent, received] = await Promise.all([sharing, fresh.shareSecrets()]);
            assert.deepEqual(received.secrets.cross_signing, sent.secrets.cross_signing);
            await works(tokens.access_token, deviceId);
            await fresh.close();
        }
    },
};

await flows[version]();
process.exit(0);
