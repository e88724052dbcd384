// Uses the web pages of a server in Chromium: node pages.mjs URL CHROMIUM [FOLDER]
//
// It prints a line for each part and ends with status 1 if one fails. With FOLDER, it saves a picture of every page
// there, on a phone and a desktop, light and dark.
import crypto from 'node:crypto'
import { once } from 'node:events'
import fs from 'node:fs'
import http from 'node:http'
import { createRequire } from 'node:module'
import { chromium } from 'playwright-core'

const [url, executablePath, folder] = process.argv.slice(2)
const axe = fs.readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const password = 'a long password'
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
    const reply = await fetch(url + '/_matrix/client/v3/account/whoami', { headers: { Authorization: 'Bearer ' + token.access_token } })
    return (await reply.json()).user_id
  }

  async signUp(user) {
    await this.open(authorize({ prompt: 'create' }))
    await this.at('Create an account')
    await this.fill({ 'User name': user, Password: password, 'Password again': password })
    await this.press('Create the account')
    await this.at('Set up a second factor')
  }

  // enter enters the password, which alone is not enough.
  async enter(user) {
    await this.open(authorize())
    await this.at('Sign in')
    await this.fill({ 'User name': user, Password: password })
    await this.press('Sign in')
    await this.at('Confirm that it is you')
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
    await page.getByLabel('User name').fill('alice')
    await page.getByLabel('Password').fill(password)
    await page.getByRole('button', { name: 'Sign in', exact: true }).click()
    await page.getByText('Use a recovery code').click()
    await page.getByLabel('Recovery code').fill(codes[1])
    await page.getByRole('button', { name: 'Use this code' }).click()
    await page.getByRole('button', { name: 'Allow', exact: true }).waitFor()
    await context.close()
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
