// Writes tests/vectors/hyper/wire.json: what the npm packages make of fixed seeds. Run: node make_wire_vectors.js
const fs = require('fs')
const path = require('path')
const c = require('compact-encoding')
const z32 = require('z32')
const curve = require('noise-curve-ed')
const Noise = require('noise-handshake')
const Protomux = require('protomux')
const SecretStream = require('@hyperswarm/secret-stream')
const hypercoreCrypto = require('hypercore-crypto')
const caps = require('hypercore/lib/caps')
const { wire } = require('hypercore/lib/messages')
const { Push } = require('sodium-secretstream')

const hex = (buffer) => Buffer.from(buffer).toString('hex')
const filled = (n, size = 32) => Buffer.alloc(size, n)
const versions = {}
for (const name of ['compact-encoding', 'z32', 'noise-handshake', 'noise-curve-ed', 'protomux',
  '@hyperswarm/secret-stream', 'hypercore', 'hypercore-crypto', 'sodium-secretstream']) {
  const manifest = path.join(__dirname, 'node_modules', name, 'package.json')
  versions[name] = JSON.parse(fs.readFileSync(manifest)).version
}
const vectors = { origin: 'npm packages, by tests/interop/node/make_wire_vectors.js', versions }

vectors.uint = [0, 1, 0xfc, 0xfd, 0xff, 0x100, 0xffff, 0x10000, 0xffffffff, 0x100000000, 2 ** 53 - 1]
  .map((value) => ({ value, encoded: hex(c.encode(c.uint, value)) }))
vectors.string = ['', 'hyper', 'é'.repeat(200)].map((value) => ({ value, encoded: hex(c.encode(c.string, value)) }))
vectors.z32 = [filled(0), filled(0xff), Buffer.from('f0bfc7', 'hex'), hypercoreCrypto.hash(Buffer.from('z'))]
  .map((data) => ({ data: hex(data), text: z32.encode(data) }))

// Noise XX with fixed static and ephemeral seeds
const keys = [1, 2, 3, 4].map((n) => curve.generateKeyPair(filled(n)))
const a = new Noise('XX', true, keys[0], { curve })
const b = new Noise('XX', false, keys[1], { curve })
a.initialise(Buffer.alloc(0))
b.initialise(Buffer.alloc(0))
a.e = keys[2]
b.e = keys[3]
const messages = []
let [from, to] = [a, b]
for (let i = 0; i < 3; i++) {
  const message = from.send()
  to.recv(message)
  messages.push(hex(message));
  [from, to] = [to, from]
}
vectors.noise = {
  initiatorSeed: hex(filled(1)),
  responderSeed: hex(filled(2)),
  initiatorEphemeralSeed: hex(filled(3)),
  responderEphemeralSeed: hex(filled(4)),
  initiatorPublic: hex(keys[0].publicKey),
  responderPublic: hex(keys[1].publicKey),
  messages,
  hash: hex(a.hash),
  initiatorTx: hex(a.tx),
  initiatorRx: hex(a.rx)
}

// Secret stream: ids, and frames sealed by the responder under a header of libsodium's choice
const header = Buffer.alloc(24)
const push = new Push(Buffer.from(a.rx.subarray(0, 32)), undefined, header)
const plain = ['', 'hello', 'x'.repeat(1000)]
vectors.secretStream = {
  initiatorId: hex(SecretStream.id(a.hash, true)),
  responderId: hex(SecretStream.id(a.hash, false)),
  header: hex(header),
  plain,
  frames: plain.map((text) => {
    const out = Buffer.alloc(text.length + 17)
    push.next(Buffer.from(text), out)
    return hex(out)
  })
}
const key = filled(7)
vectors.capability = {
  key: hex(key),
  discoveryKey: hex(hypercoreCrypto.discoveryKey(key)),
  initiator: hex(caps.replicate(true, key, a.hash)),
  responder: hex(caps.replicate(false, key, a.hash))
}

// Hypercore messages
const node = (n) => ({ index: n * 1000, size: n * 70000, hash: filled(n) })
const request = { id: 1, fork: 0, block: null, hash: null, seek: null, upgrade: null, manifest: false, priority: 0 }
const data = { request: 1, fork: 0, block: null, hash: null, seek: null, upgrade: null, manifest: null }
const samples = {
  sync: [
    { fork: 0, length: 0, remoteLength: 0, canUpgrade: true, uploading: true, downloading: true, hasManifest: false, allowPush: false },
    { fork: 3, length: 70000, remoteLength: 500, canUpgrade: false, uploading: true, downloading: false, hasManifest: true, allowPush: true }
  ],
  request: [
    { ...request, block: { index: 5, nodes: 2 } },
    { ...request, id: 300, fork: 2, hash: { index: 12, nodes: 3 }, seek: { bytes: 65536, padding: 8 }, priority: 2 },
    { ...request, upgrade: { start: 0, length: 1000 }, manifest: true }
  ],
  cancel: [{ request: 77 }],
  data: [
    { ...data, block: { index: 5, value: filled(9, 300), nodes: [node(1), node(2)] } },
    { ...data, block: { index: 5, value: Buffer.alloc(0), nodes: [] } },
    { ...data, hash: { index: 12, nodes: [node(3)] }, seek: { bytes: 65536, nodes: [node(4)] } },
    { ...data, fork: 1, upgrade: { start: 0, length: 10, nodes: [node(1)], additionalNodes: [node(2)], signature: filled(5, 68) } },
    { ...data, upgrade: { start: 0, length: 10, nodes: [], additionalNodes: [], signature: null } }
  ],
  noData: [{ request: 4, reason: 0 }, { request: 4, reason: 2 }],
  want: [{ start: 0, length: 2097152, any: false }, { start: 2097152, length: 32, any: true }],
  unwant: [{ start: 0, length: 2097152, any: false }],
  bitfield: [{ start: 64, bitfield: new Uint32Array([1, 0x80000000, 0xffffffff]) }],
  range: [{ drop: false, start: 0, length: 100 }, { drop: true, start: 7, length: 1 }],
  extension: [{ name: 'hyperbee', message: Buffer.from('abc') }, { name: '', message: Buffer.alloc(0) }]
}
vectors.messages = []
for (const [name, list] of Object.entries(samples)) {
  for (const value of list) {
    const shown = JSON.parse(JSON.stringify(value, (k, v) => {
      if (v && v.type === 'Buffer') return hex(Buffer.from(v.data))
      if (v instanceof Uint32Array) return hex(Buffer.from(v.buffer))
      return v
    }))
    vectors.messages.push({ name, value: shown, encoded: hex(c.encode(wire[name], value)) })
  }
}
vectors.handshake = { capability: hex(filled(6)), encoded: hex(c.encode(wire.handshake, { seeks: true, capability: filled(6) })) }

// Protomux: what a mux writes when it opens channels, sends alone and in a batch, and closes
const written = []
const stream = {
  userData: null, destroyed: false, on () {}, pause () {}, resume () {}, destroy (error) { throw error },
  write (buffer) { written.push(hex(buffer)); return true }
}
const mux = new Protomux(stream)
const channel = (protocol, id) => mux.createChannel({ protocol, id, messages: [{ encoding: c.raw }, { encoding: c.raw }] })
const one = channel('hypercore/alpha', filled(1))
const two = channel('hypercore/alpha', filled(2))
one.open()
two.open()
one.messages[1].send(Buffer.from('alone'))
mux.cork()
one.messages[0].send(Buffer.from('a'))
one.messages[1].send(Buffer.from('bc'))
two.messages[1].send(Buffer.from('d'.repeat(300)))
mux.uncork()
two.close()
vectors.protomux = { written }

fs.writeFileSync(path.join(__dirname, '../../vectors/hyper/wire.json'), JSON.stringify(vectors, null, 1) + '\n')
