// Uses the web pages of a server in Chromium: node pages.mjs URL HELPER CHROMIUM [FOLDER]
//
// It prints a line for each part and ends with status 1 if one fails. With FOLDER, it saves a picture of every page
// there, on a phone and a desktop, light and dark.
import crypto from 'node:crypto'
import { once } from 'node:events'
import fs from 'node:fs'
import http from 'node:http'
import { createRequire } from 'node:module'
import { chromium } from 'playwright-core'

const [url, helper, executablePath, folder] = process.argv.slice(2)
const axe = fs.readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const password = 'a long password'
const fresh = 'a different passphrase'
const home = http.createServer((_, reply) => reply.end('back at the client')).listen(0, '127.0.0.1')
await once(home, 'listening')
const callback = `http://127.0.0.1:${home.address().port}/callback`
const timeout = 60_000 // of one action, on a busy machine

function check(condition, text) {
  if (!condition) throw new Error(text)
}

async function post(address, body) {
  const form = body instanceof URLSearchParams
  const reply = await fetch(address, { method: 'POST', headers: form ? {} : { 'Content-Type': 'application/json' }, body: form ? body : JSON.stringify(body) })
  check(reply.ok, `${address}: ${reply.status}`)
  return reply.json()
}

const meta = await (await fetch(url + '/_matrix/client/v1/auth_metadata')).json()
const client = await post(meta.registration_endpoint, {
  client_name: 'Example Chat', client_uri: 'https://chat.example.org/', application_type: 'native', redirect_uris: ['http://127.0.0.1/callback'],
  grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'], token_endpoint_auth_method: 'none',
})
const verifier = crypto.randomBytes(32).toString('base64url')

// mail returns the next e-mail whose text matches a pattern, and leaves out those before it.
async function mail(pattern) {
  for (let i = 0; i < 600; i++) {
    const reply = await fetch(helper + '/mail')
    if (reply.status === 200) {
      const found = pattern.exec((await reply.json()).Text)
      if (found) return found
    } else await new Promise((done) => setTimeout(done, 100))
  }
  throw new Error(`no e-mail with ${pattern}`)
}

const confirmation = /http:\/\/localhost:\d+\/_matrix\S+\/email\/verify\S+/
const alert = /New sign-in[^]*?(http:\/\/localhost:\d+\/_ebb\/account\/notme\S+)/

async function link(user) {
  return JSON.parse(await (await fetch(helper + '/link?user=' + user)).text()).url
}

async function works(token) {
  return (await fetch(url + '/_matrix/client/v3/account/whoami', { headers: { Authorization: 'Bearer ' + token } })).ok
}

function authorize(extra = {}) {
  return meta.authorization_endpoint + '?' + new URLSearchParams({
    response_type: 'code', client_id: client.client_id, redirect_uri: callback, scope: 'urn:matrix:client:api:* urn:matrix:client:device:BROWSERDEVICE', state: 's',
    code_challenge: crypto.createHash('sha256').update(verifier).digest('base64url'), code_challenge_method: 'S256', ...extra,
  })
}

// totp returns a one-time code (RFC 6238), the one that is shown steps of 30 s later.
function totp(secret, steps) {
  let bits = ''
  for (const c of secret.replace(/ /g, '')) bits += 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(c).toString(2).padStart(5, '0')
  const key = Buffer.from(bits.match(/.{8}/g).map((b) => parseInt(b, 2)))
  const counter = Buffer.alloc(8)
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + steps))
  const mac = crypto.createHmac('sha1', key).update(counter).digest()
  return String((mac.readUInt32BE(mac[19] & 15) & 0x7fffffff) % 1_000_000).padStart(6, '0')
}

const browser = await chromium.launch({
  executablePath,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
})

// Browser is a browser of one person, without cookies.
class Browser {
  static async open() {
    const b = new Browser()
    b.context = await browser.newContext()
    b.page = await b.context.newPage()
    b.page.setDefaultTimeout(timeout)
    b.page.on('pageerror', (e) => { throw e })
    return b
  }

  // plugIn gives the browser an authenticator that verifies its user.
  async plugIn() {
    const cdp = await this.context.newCDPSession(this.page)
    await cdp.send('WebAuthn.enable')
    await cdp.send('WebAuthn.addVirtualAuthenticator', {
      options: { protocol: 'ctap2', transport: 'internal', hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true },
    })
  }

  async open(address) {
    await this.page.goto(address)
    await this.look()
  }

  // press presses a button that leads to another page, which it checks.
  async press(name) {
    await Promise.all([this.page.waitForEvent('load'), this.page.getByRole('button', { name, exact: true }).click()])
    await this.look()
  }

  async follow(name) {
    await Promise.all([this.page.waitForEvent('load'), this.page.getByRole('link', { name, exact: true }).click()])
    await this.look()
  }

  async fill(fields) {
    for (const [label, value] of Object.entries(fields)) await this.page.getByLabel(label, { exact: true }).fill(value)
  }

  title() {
    return this.page.locator('h1').textContent()
  }

  // at fails unless the page has a title.
  async at(title) {
    const got = await this.title()
    check(got === title, `the page is ${got}, want ${title}: ${await this.page.locator('main').innerText()}`)
  }

  // look checks that the page is accessible, on a phone and a desktop, light and dark.
  async look() {
    for (const [kind, width, colorScheme] of [['phone-light', 390, 'light'], ['desktop-dark', 1280, 'dark'], ['phone-dark', 390, 'dark'], ['desktop-light', 1280, 'light']]) {
      await this.page.setViewportSize({ width, height: 844 })
      await this.page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
      if (!folder && (kind === 'phone-dark' || kind === 'desktop-light')) continue // each width and scheme was checked once
      await this.page.evaluate(axe)
      const found = await this.page.evaluate(() => window.axe.run({ resultTypes: ['violations'] }))
      const problems = found.violations.map((v) => `${v.id} (${v.nodes.map((n) => n.html).join(' ')})`)
      check(problems.length === 0, `${await this.title()}, ${kind}, is not accessible: ${problems.join('; ')}`)
      const wide = await this.page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth)
      check(!wide, `${await this.title()}, ${kind}, is wider than the window`)
      if (folder) await this.page.screenshot({ path: `${folder}/${String(++pictures).padStart(3, '0')}-${kind}.png`, fullPage: true })
    }
  }

  // consent allows access and returns the user whom the client gets a token for.
  async consent() {
    await this.at('Allow access?')
    await Promise.all([this.page.waitForURL(callback + '?*'), this.page.getByRole('button', { name: 'Allow', exact: true }).click()])
    const back = new URL(this.page.url())
    check(back.href.startsWith(callback) && back.searchParams.get('state') === 's', `the browser is at ${back}`)
    const token = await post(meta.token_endpoint, new URLSearchParams({
      grant_type: 'authorization_code', code: back.searchParams.get('code'), redirect_uri: callback, client_id: client.client_id, code_verifier: verifier,
    }))
    this.token = token.access_token
    const reply = await fetch(url + '/_matrix/client/v3/account/whoami', { headers: { Authorization: 'Bearer ' + token.access_token } })
    return (await reply.json()).user_id
  }

  async signUp(user) {
    await this.open(authorize({ prompt: 'create' }))
    await this.at('Create an account')
    await this.fill({ Username: user, Password: password, 'Repeat the password': password })
    await this.press('Create the account')
    await this.at('Set up a second factor')
  }

  // enter enters the password, which alone is not enough.
  async enter(user, address = authorize(), secret = password) {
    await this.open(address)
    await this.at('Sign in')
    await this.fill({ Username: user, Password: secret })
    await this.press('Sign in')
    await this.at('Confirm that it is you')
  }

  // recover signs in by a recovery code, after the password.
  async recover(code) {
    await this.page.getByText('Use a recovery code').click()
    await this.fill({ 'Recovery code': code })
    await this.press('Use this code')
  }

  // setUpApp sets up an authenticator app, and returns its secret.
  async setUpApp() {
    await this.press('Use an authenticator app')
    const secret = await this.page.locator('.secret').textContent()
    await this.fill({ 'Code that the app shows now': totp(secret, 0) })
    await this.press('Confirm')
    await this.at('Save your recovery codes')
    return secret
  }

  close() {
    return this.context.close()
  }
}

let pictures = 0
let codes, secret, phone

const parts = {
  async 'sign up and add a passkey'() {
    phone = await Browser.open()
    await phone.plugIn()
    await phone.signUp('alice')
    await phone.fill({ 'Name of the passkey': 'My phone' })
    await phone.press('Create a passkey')
    await phone.at('Save your recovery codes')
    codes = await phone.page.locator('#codes li').allTextContents()
    check(codes.length === 10, `${codes.length} recovery codes`)
    await phone.follow('I have saved them')
    const user = await phone.consent()
    check(user === '@alice:localhost', `signed in as ${user}`)
  },
  async 'sign in by the passkey alone'() {
    await phone.open(authorize())
    await phone.press('Use another account')
    await phone.at('Sign in')
    await phone.press('Sign in with a passkey')
    check(await phone.consent() === '@alice:localhost', 'another user')
  },
  async 'sign in by the password and the passkey'() {
    await phone.open(authorize())
    await phone.press('Use another account')
    await phone.enter('alice')
    await phone.press('Sign in with a passkey')
    check(await phone.consent() === '@alice:localhost', 'another user')
  },
  async 'sign in without the phone, by a recovery code'() {
    const b = await Browser.open()
    await b.enter('alice')
    await b.page.getByText('Use a recovery code').click()
    await b.fill({ 'Recovery code': codes[0].toUpperCase() })
    await b.press('Use this code')
    check(await b.consent() === '@alice:localhost', 'another user')
    await b.close()
  },
  async 'sign up with an authenticator app'() {
    const b = await Browser.open()
    await b.signUp('bob')
    await b.press('Use an authenticator app')
    secret = await b.page.locator('.secret').textContent()
    await b.fill({ 'Code that the app shows now': '000000' })
    await b.press('Confirm')
    check((await b.page.getByRole('alert').textContent()).includes('wrong'), 'a wrong code is accepted')
    await b.fill({ 'Code that the app shows now': totp(secret, 0) })
    await b.press('Confirm')
    await b.at('Save your recovery codes')
    await b.follow('I have saved them')
    check(await b.consent() === '@bob:localhost', 'another user')
    await b.close()
  },
  async 'sign in by a one-time code'() {
    const b = await Browser.open()
    await b.enter('bob')
    await b.fill({ 'One-time code': totp(secret, 1) }) // the one from before cannot be used again
    await b.press('Continue')
    check(await b.consent() === '@bob:localhost', 'another user')
    await b.close()
  },
  async 'without JavaScript'() {
    const context = await browser.newContext({ javaScriptEnabled: false })
    const page = await context.newPage()
    page.setDefaultTimeout(timeout)
    await page.goto(authorize())
    check(!(await page.getByRole('button', { name: 'Sign in with a passkey' }).isVisible()), 'a passkey is offered')
    await page.getByLabel('Username').fill('alice')
    await page.getByLabel('Password').fill(password)
    await page.getByRole('button', { name: 'Sign in', exact: true }).click()
    await page.getByText('Use a recovery code').click()
    await page.getByLabel('Recovery code').fill(codes[1])
    await page.getByRole('button', { name: 'Use this code' }).click()
    await page.getByRole('button', { name: 'Allow', exact: true }).waitFor()
    await context.close()
  },
  async 'add an e-mail address'() {
    await phone.open(url + '/_ebb/account')
    await phone.follow('E-mail addresses For a forgotten password, and for alerts')
    await phone.fill({ 'E-mail address': 'alice@example.org' })
    await phone.press('Send me a link')
    await phone.press('I have opened the link')
    check((await phone.page.getByRole('alert').textContent()).includes('not been opened'), 'an address is added unconfirmed')
    const mailbox = await Browser.open()
    await mailbox.open((await mail(confirmation))[0])
    await mailbox.at('Confirm your e-mail address')
    await mailbox.press('Confirm')
    await mailbox.close()
    await phone.press('I have opened the link')
    check((await phone.page.locator('main').innerText()).includes('alice@example.org'), 'the address is missing')
  },
  async 'lose the phone, and replace its passkey with a recovery code'() {
    const b = await Browser.open()
    await b.plugIn()
    await b.enter('alice', url + '/_ebb/account/security')
    await b.recover(codes[2])
    await b.at('Second factors')
    await b.follow('Add another factor')
    await b.fill({ 'Name of the passkey': 'New phone' })
    await b.press('Create a passkey')
    await b.at('Second factors')
    await b.page.getByLabel('Change: My phone').click()
    await b.press('Remove this passkey')
    const left = await b.page.locator('h3').allTextContents()
    check(left.length === 1 && left[0] === 'New phone', `the passkeys are ${left}`)
    await phone.close()
    phone = b
  },
  async 'lose everything, and get a link from the administrator'() {
    const b = await Browser.open()
    await b.open(await link('bob'))
    await b.at('Set up a second factor')
    secret = await b.setUpApp()
    check((await b.page.locator('main').innerText()).includes('You can now sign in'), 'the page does not say what comes next')
    await b.enter('bob')
    await b.fill({ 'One-time code': totp(secret, 1) })
    await b.press('Continue')
    check(await b.consent() === '@bob:localhost', 'another user')
    await b.close()
  },
  async 'this was not me'() {
    const thief = await Browser.open()
    await thief.enter('alice', authorize({ scope: 'urn:matrix:client:api:* urn:matrix:client:device:THIEFDEVICE' }))
    await thief.recover(codes[3])
    await thief.consent()
    const found = await mail(alert)
    const mailbox = await Browser.open()
    await mailbox.open(found[1])
    await mailbox.at('New sign-in to your account')
    check(await works(thief.token), 'opening the link ends the session')
    await mailbox.press('This was not me')
    await mailbox.at('The session has ended')
    check(!await works(thief.token), 'the session goes on')
    await mailbox.open(found[1])
    await mailbox.at('That did not work')
    await thief.open(url + '/_ebb/account')
    await thief.at('Sign in')
    await thief.fill({ Username: 'alice', Password: password })
    await thief.press('Sign in')
    check((await thief.page.getByRole('alert').textContent()).includes('Wrong'), 'the old password works')
    await thief.close()
    await mailbox.close()
  },
  async 'set a new password by e-mail'() {
    await phone.open(authorize())
    await phone.at('Sign in')
    await phone.follow('Forgot your password?')
    await phone.fill({ 'E-mail address': 'alice@example.org' })
    await phone.press('Send me a link')
    const mailbox = await Browser.open()
    await mailbox.open((await mail(confirmation))[0])
    await mailbox.at('Reset your password')
    await mailbox.press('Allow')
    await mailbox.close()
    await phone.press('I have opened the link')
    await phone.fill({ Password: fresh, 'Repeat the password': fresh })
    await phone.press('Set the password')
    await phone.at('The password is set')
    await phone.enter('alice', authorize(), fresh)
    await phone.press('Sign in with a passkey')
    check(await phone.consent() === '@alice:localhost', 'another user')
  },
  async 'approve that a client administrates the server'() {
    await fetch(helper + '/admin?user=alice')
    const whois = () => fetch(url + '/_matrix/client/v3/admin/whois/@bob:localhost', { headers: { Authorization: 'Bearer ' + phone.token } })
    const refused = await whois()
    check(refused.status === 401, `an access token alone: ${refused.status}`)
    await phone.open((await refused.json()).params['m.oauth'].url)
    await phone.at('Approve a request')
    await phone.press('Approve')
    await phone.at('Approved')
    check((await whois()).ok, 'it is refused after it was approved')
  },
  async 'refuse a device that asks for the ID of another one'() {
    const tv = await post(meta.registration_endpoint, {
      client_name: 'Example TV', client_uri: 'https://tv.example.org/', application_type: 'native', redirect_uris: ['http://127.0.0.1/callback'],
      grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'authorization_code', 'refresh_token'], response_types: ['code'], token_endpoint_auth_method: 'none',
    })
    const scope = 'urn:matrix:client:api:* urn:matrix:client:device:BROWSERDEVICE'
    const code = await post(meta.device_authorization_endpoint, new URLSearchParams({ client_id: tv.client_id, scope }))
    await phone.open(url + '/oauth2/link')
    await phone.fill({ Code: code.user_code })
    await phone.press('Continue')
    await phone.at('Connect a device')
    check((await phone.page.locator('main').innerText()).includes('You have a device with this ID already'), 'the page does not say whose ID it is')
    await phone.press('Cancel')
    await phone.at('Access was denied')
  },
  async 'sign in by an identity provider'() {
    const b = await Browser.open()
    await b.open(authorize())
    await b.follow('Sign in with Office')
    await b.at('Welcome')
    await b.press('Create an account')
    await b.at('Set up a second factor')
    await b.setUpApp()
    await b.follow('I have saved them')
    check(await b.consent() === '@dora:localhost', 'another user')
    await b.open(url + '/_ebb/account/identities')
    await b.at('Other ways to sign in')
    await b.press('Remove user@example.org')
    check((await b.page.getByRole('alert').textContent()).includes('only way'), 'the only way to sign in is removed')
    await b.close()
  },
  async 'have old messages deleted'() {
    const shows = async (text) => check((await phone.page.locator('main').innerText()).includes(text), `the page does not show: ${text}`)
    await phone.open(url + '/_ebb/account')
    await phone.follow('Delete old messages After a time that you choose')
    await phone.at('Delete old messages')
    await shows('Your messages are not deleted because of their age.')
    await phone.page.locator('form').evaluateAll((forms) => forms.forEach((f) => { f.noValidate = true }))
    await phone.fill({ 'Days after which your messages are deleted': '0' })
    await phone.press('Delete old messages')
    check((await phone.page.getByRole('alert').textContent()).includes('between 1 and 3650'), 'the problem does not say what can be chosen')
    await phone.fill({ 'Days after which your messages are deleted': '30' })
    await phone.press('Delete old messages')
    await shows('Your messages are deleted after 30 days.')
    await phone.press('Switch off')
    await shows('Your messages are not deleted because of their age.')
  },
  async 'all pages of the account'() {
    for (const path of ['', '/profile', '/emails', '/password', '/security', '/identities', '/export', '/messages', '/devices', '/device?device_id=BROWSERDEVICE', '/approve', '/delete']) {
      await phone.open(url + '/_ebb/account' + path)
    }
    await phone.open(url + '/_ebb/account/profile')
    const picture = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGNgYPiPFdFQ4v9/AEpkP8FhVXQtAAAAAElFTkSuQmCC', 'base64')
    await phone.page.getByLabel('Choose a picture').setInputFiles({ name: 'me.png', mimeType: 'image/png', buffer: picture })
    await Promise.all([phone.page.waitForEvent('load'), phone.page.getByRole('button', { name: 'Save' }).nth(1).click()])
    await phone.look()
    check(await phone.page.getByAltText('Your picture').evaluate((i) => i.complete && i.naturalWidth > 0), 'the picture is not shown')
    await phone.open(url + '/_ebb/account/devices')
    await phone.page.getByText('Sign out everywhere').click()
    await phone.look()
    await phone.press('Sign out on all devices')
    await phone.at('You are signed out')
    await phone.open(url + '/')
  },
}

let failed = false
for (const [name, part] of Object.entries(parts)) {
  try {
    await part()
    console.log('ok   ' + name)
  } catch (e) {
    failed = true
    console.log('FAIL ' + name + ': ' + e.stack)
    break // the parts follow each other
  }
}
await browser.close()
process.exit(failed ? 1 : 0)
