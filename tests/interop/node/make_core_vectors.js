// Makes tests/vectors/hyper/core.json: trees, signatures, proofs and stored blocks as npm hypercore makes them.
// Run in this folder: node make_core_vectors.js > ../../vectors/hyper/core.json
const fs = require('fs')
const os = require('os')
const path = require('path')
const Hypercore = require('hypercore')
const crypto = require('hypercore-crypto')
const { MerkleTree } = require('hypercore/lib/merkle-tree')

const hex = (b) => (b ? Buffer.from(b).toString('hex') : null)
const nodes = (list) => list.map((n) => [n.index, n.size, hex(n.hash)])
const seed = (n) => Buffer.alloc(32, n)
const block = (i) => Buffer.from(`block ${i} `.repeat((i * 7) % 11))

function part(proof) {
  return {
    fork: proof.fork,
    block: proof.block && { index: proof.block.index, value: hex(proof.block.value), nodes: nodes(proof.block.nodes) },
    hash: proof.hash && { index: proof.hash.index, nodes: nodes(proof.hash.nodes) },
    seek: proof.seek && { bytes: proof.seek.bytes, nodes: nodes(proof.seek.nodes) },
    upgrade: proof.upgrade && {
      start: proof.upgrade.start,
      length: proof.upgrade.length,
      nodes: nodes(proof.upgrade.nodes),
      additionalNodes: nodes(proof.upgrade.additionalNodes),
      signature: hex(proof.upgrade.signature)
    }
  }
}

async function core(dir, name, opts) {
  const c = new Hypercore(path.join(dir, name), opts)
  await c.ready()
  return c
}

async function main() {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'vectors-'))
  const out = { origin: 'npm hypercore ' + require('hypercore/package.json').version }

  const keyPair = crypto.keyPair(seed(1))
  const plain = await core(dir, 'plain', { keyPair })
  out.plain = { seed: hex(seed(1)), key: hex(plain.key), discoveryKey: hex(plain.discoveryKey), heads: [] }
  for (let i = 0; i < 21; i++) {
    await plain.append(block(i))
    out.plain.heads.push({ treeHash: hex(await plain.treeHash()), signature: hex(plain.core.state.signature), byteLength: plain.byteLength })
  }
  out.proofs = []
  const requests = [
    { block: { index: 3, nodes: 0 } }, { block: { index: 3, nodes: 2 } }, { block: { index: 0, nodes: 4 } },
    { block: { index: 20, nodes: 0 } }, { hash: { index: 7, nodes: 1 } }, { hash: { index: 12, nodes: 3 } },
    { upgrade: { start: 0, length: 21 } }, { upgrade: { start: 0, length: 13 } }, { upgrade: { start: 5, length: 16 } },
    { upgrade: { start: 5, length: 3 } }, { upgrade: { start: 8, length: 13 } }, { upgrade: { start: 16, length: 1 } },
    { block: { index: 9, nodes: 0 }, upgrade: { start: 0, length: 21 } },
    { block: { index: 9, nodes: 0 }, upgrade: { start: 8, length: 8 } },
    { block: { index: 2, nodes: 2 }, upgrade: { start: 6, length: 15 } },
    { block: { index: 20, nodes: 0 }, upgrade: { start: 3, length: 18 } },
    { hash: { index: 0, nodes: 4 }, seek: { bytes: 100, padding: 0 } },
    { hash: { index: 0, nodes: 3 }, seek: { bytes: 150, padding: 0 } },
    { block: { index: 5, nodes: 4 }, seek: { bytes: 300, padding: 0 } },
    { block: { index: 5, nodes: 4 }, seek: { bytes: 0, padding: 0 } },
    { seek: { bytes: 120, padding: 0 }, upgrade: { start: 0, length: 21 } },
    { seek: { bytes: 700, padding: 0 }, upgrade: { start: 0, length: 17 } },
    { hash: { index: 15, nodes: 0 }, upgrade: { start: 16, length: 5 } }
  ]
  for (const request of requests) {
    try {
      const p = await proofOf(plain, request)
      out.proofs.push({ request, proof: p })
    } catch (err) {
      out.proofs.push({ request, error: String(err.message) })
    }
  }
  await plain.truncate(11)
  await plain.append(Buffer.from('another end'))
  out.truncated = { at: 11, fork: plain.fork, block: hex(Buffer.from('another end')), treeHash: hex(await plain.treeHash()), signature: hex(plain.core.state.signature) }
  await plain.close()

  const encryptionKey = seed(9)
  const sealed = await core(dir, 'sealed', { keyPair, encryption: { key: encryptionKey } })
  out.encrypted = { encryptionKey: hex(encryptionKey), blocks: [], byteLength: 0 }
  for (let i = 0; i < 3; i++) await sealed.append(block(i + 1))
  await sealed.truncate(1)
  for (let i = 1; i < 4; i++) await sealed.append(block(i + 1))
  for (let i = 0; i < 4; i++) out.encrypted.blocks.push(hex(await sealed.get(i, { raw: true })))
  out.encrypted.byteLength = sealed.byteLength
  out.encrypted.fork = sealed.fork
  out.encrypted.signature = hex(sealed.core.state.signature)
  await sealed.close()

  const compat = await core(dir, 'compat', { keyPair, compat: true })
  for (let i = 0; i < 5; i++) await compat.append(block(i))
  out.compat = { key: hex(compat.key), length: 5, treeHash: hex(await compat.treeHash()), signature: hex(compat.core.state.signature) }
  await compat.close()

  const Verifier = require('hypercore/lib/verifier')
  const pair = (n) => ({ publicKey: crypto.keyPair(seed(n)).publicKey })
  out.manifests = []
  for (const m of [
    { version: 0, signers: [pair(1)] },
    { version: 0, quorum: 2, allowPatch: true, signers: [pair(1), pair(2), pair(3)] },
    { version: 0, quorum: 0, signers: [], prologue: { hash: seed(7), length: 0 } },
    { version: 1, signers: [pair(1), pair(2), pair(3)] },
    { version: 1, allowPatch: true, quorum: 1, signers: [pair(1), pair(2)], prologue: { hash: seed(5), length: 300 } },
    { version: 2, signers: [pair(4)], linked: [seed(6), seed(7)], userData: Buffer.from('about') }
  ]) {
    const full = Verifier.createManifest(m)
    out.manifests.push({ encoded: hex(Verifier.encodeManifest(full)), key: hex(Verifier.manifestHash(full)) })
  }

  // two of three signers; in the second signature one of them has signed a longer tree
  const keys = [1, 2, 3].map((n) => crypto.keyPair(seed(n)))
  const manifest = Verifier.createManifest({ version: 1, allowPatch: true, quorum: 2, signers: [1, 2, 3].map(pair) })
  const verifier = Verifier.fromManifest(manifest)
  const log = await core(dir, 'log', { keyPair })
  for (let i = 0; i < 8; i++) await log.append(block(i))
  const grown = async (length) => {
    const batch = log.core.state.createTreeBatch()
    await batch.restore(length)
    return batch
  }
  const short = await grown(5)
  const long = await grown(8)
  const patch = (await proofOf(log, { upgrade: { start: 5, length: 3 } }, true)).upgrade.nodes
  const both = verifier.assemble([0, 1].map((n) => ({ signer: n, signature: verifier.signers[n].sign(short, keys[n]), patch: 0, nodes: null })))
  const patched = verifier.assemble([
    { signer: 0, signature: verifier.signers[0].sign(short, keys[0]), patch: 0, nodes: null },
    { signer: 2, signature: verifier.signers[2].sign(long, keys[2]), patch: 3, nodes: patch }
  ])
  out.multi = {
    manifest: hex(Verifier.encodeManifest(manifest)), key: hex(Verifier.manifestHash(manifest)), length: 5,
    both: hex(both), patched: hex(patched), valid: [verifier.verify(short, both), verifier.verify(short, patched)]
  }
  await log.close()

  console.log(JSON.stringify(out, null, 1))
  fs.rmSync(dir, { recursive: true })

  async function proofOf(c, request, raw) {
    const rx = c.core.state.storage.read()
    const pending = MerkleTree.proof(c.core.state, rx, JSON.parse(JSON.stringify(request)))
    await new Promise((resolve) => setTimeout(resolve, 20)) // a seek reads on its own before it uses rx
    rx.tryFlush()
    const p = await (await pending).settle()
    if (raw) return p
    if (request.block) p.block.value = await c.get(request.block.index)
    return part(p)
  }
}

main()
