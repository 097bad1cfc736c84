// An npm hyperdrive peer that reads a shared drive through a SOCKS proxy and the onion address.
//
//   pelure link show NAME --npm --json | tail -n 1 > FIELDS_FILE     # what this program needs
//   pelure proxy --socks 127.0.0.1:SOCKS_PORT --auth-dir DIR         # has the link's discovery key
//   node npm-reader.js SOCKS_PORT FIELDS_FILE
//
// FIELDS_FILE: {"address", "port", "drive_key", "encryption_key", "identity_seed", "auth_private"}, keys in
// hex; the last is the content of DIR/NAME.auth_private. docs/private-link.md has it step by step.
// Needs the packages of tests/interop/node/package.json.

const fs = require('fs')
const net = require('net')
const os = require('os')
const path = require('path')
const crypto = require('hypercore-crypto')
const Corestore = require('corestore')
const Hyperdrive = require('hyperdrive')
const NoiseSecretStream = require('@hyperswarm/secret-stream')

function socksConnect (socksPort, host, port) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(socksPort, '127.0.0.1')
    let received = Buffer.alloc(0)
    let greeted = false
    socket.once('error', reject)
    socket.on('data', function onData (data) {
      received = Buffer.concat([received, data])
      if (!greeted && received.length >= 2) {
        greeted = true
        received = received.subarray(2)
        const name = Buffer.from(host)
        socket.write(Buffer.concat([Buffer.from([5, 1, 0, 3, name.length]), name, Buffer.from([port >> 8, port & 255])]))
      }
      if (greeted && received.length >= 10) {
        if (received[1] !== 0) return reject(new Error('the proxy answered ' + received[1]))
        socket.off('data', onData)
        socket.pause()
        if (received.length > 10) socket.unshift(received.subarray(10))
        resolve(socket)
      }
    })
    socket.write(Buffer.from([5, 1, 0]))
  })
}

async function main () {
  const fields = JSON.parse(fs.readFileSync(process.argv[3]))
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'npm-reader-'))
  const store = new Corestore(folder)
  const drive = new Hyperdrive(store, Buffer.from(fields.drive_key, 'hex'), {
    encryptionKey: Buffer.from(fields.encryption_key, 'hex')
  })
  await drive.ready()
  const socket = await socksConnect(Number(process.argv[2]), fields.address, fields.port)
  const keyPair = crypto.keyPair(Buffer.from(fields.identity_seed, 'hex'))
  const stream = new NoiseSecretStream(true, socket, { keyPair })
  store.replicate(stream)
  socket.resume()
  // The first tree head arrives some round trips after the stream is open.
  while (drive.core.length === 0) await new Promise((resolve) => drive.core.once('append', resolve))
  for await (const entry of drive.list('/')) {
    const content = await drive.get(entry.key)
    const hash = content ? require('crypto').createHash('sha256').update(content).digest('hex') : null
    console.log(JSON.stringify({ path: entry.key, sha256: hash }))
  }
  stream.destroy()
  await store.close()
  fs.rmSync(folder, { recursive: true, force: true })
  process.exit(0)
}

main().catch((error) => {
  console.error(error.message)
  process.exit(1)
})
