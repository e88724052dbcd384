// The script of pages with passkeys and recovery codes. Everything else works without it.
(() => {
  'use strict';

  const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, '+').replace(/_/g, '/')), (c) => c.charCodeAt(0));
  const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '');

  // read turns the options of the server into those that the browser expects.
  function read({ publicKey: o }) {
    o.challenge = bytes(o.challenge);
    if (o.user) o.user.id = bytes(o.user.id);
    for (const c of [...(o.allowCredentials || []), ...(o.excludeCredentials || [])]) c.id = bytes(c.id);
    return { publicKey: o };
  }

  // write turns the browser's answer into JSON.
  function write(c) {
    const r = c.response;
    const out = { id: c.id, rawId: text(c.rawId), type: c.type, response: { clientDataJSON: text(r.clientDataJSON) }, clientExtensionResults: c.getClientExtensionResults() };
    if (c.authenticatorAttachment) out.authenticatorAttachment = c.authenticatorAttachment;
    if (r.attestationObject) {
      out.response.attestationObject = text(r.attestationObject);
      out.response.transports = r.getTransports ? r.getTransports() : [];
    } else {
      out.response.authenticatorData = text(r.authenticatorData);
      out.response.signature = text(r.signature);
      if (r.userHandle) out.response.userHandle = text(r.userHandle);
    }
    return JSON.stringify(out);
  }

  // use asks the browser for a passkey, or to make one, and sends the form with the answer.
  async function use(form) {
    const fields = new URLSearchParams(new FormData(form));
    fields.set('sign', form.dataset.options);
    const reply = await fetch(form.action, { method: 'POST', body: fields, headers: { Accept: 'application/json' } });
    const begun = await reply.json();
    if (!reply.ok) throw new Error(begun.error);
    const options = read(begun.options);
    const made = options.publicKey.user ? await navigator.credentials.create(options) : await navigator.credentials.get(options);
    form.elements.ceremony.value = begun.ceremony;
    form.elements.answer.value = write(made);
    HTMLFormElement.prototype.submit.call(form);
  }

  for (const form of window.PublicKeyCredential ? document.querySelectorAll('form[data-options]') : []) {
    const problem = form.querySelector('[role=alert]');
    form.hidden = false;
    form.addEventListener('submit', async (event) => {
      event.preventDefault();
      const button = form.querySelector('button');
      button.disabled = true;
      problem.hidden = true;
      try {
        await use(form);
      } catch (e) {
        // A DOMException says in the language of the browser's makers that the user has cancelled, or that it took too long.
        problem.textContent = e instanceof DOMException || !e.message || e instanceof SyntaxError || e instanceof TypeError ? form.dataset.failed : e.message;
        problem.hidden = false;
        button.disabled = false;
      }
    });
  }

  for (const button of document.querySelectorAll('button[data-copy]')) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener('click', async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).innerText);
      button.textContent = button.dataset.done;
    });
  }

  // The client that has opened the page continues when its user has approved a request.
  if (document.querySelector('[data-auth-done]')) {
    if (window.onAuthDone) window.onAuthDone();
    else if (window.opener) window.opener.postMessage('authDone', '*');
  }

  for (const button of document.querySelectorAll('button[data-print]')) {
    button.hidden = false;
    button.addEventListener('click', () => window.print());
  }
})();
