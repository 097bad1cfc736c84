// An npm hyperdrive peer that reads a shared drive through a SOCKS proxy and the onion address.
//
//   pelure link show NAME --npm --json        # on the publisher's machine: what this program needs
//   pelure proxy --auth-dir DIR               # a SOCKS proxy that has the link's discovery key
//   node npm-reader.js SOCKS_PORT FIELDS_JSON
//
// FIELDS_JSON: {"address", "port", "drive_key", "encryption_key", "identity_seed"}, keys in hex.
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
  const fields = JSON.parse(process.argv[3])
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
