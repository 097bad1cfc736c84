// Makes tests/vectors/hyper/drive.json: the keys and all blocks of drives made from fixed secrets.
// Run in this folder: node make_drive_vectors.js > ../../vectors/hyper/drive.json
const fs = require('fs')
const os = require('os')
const path = require('path')
const { createHash } = require('crypto')
const Corestore = require('corestore')
const Hyperdrive = require('hyperdrive')

const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'vectors-'))
const hex = (b) => b.toString('hex')

async function blocks(core) {
  const all = []
  for (let i = 0; i < core.length; i++) all.push(await core.get(i, { raw: true }))
  return all.map((b) => (b.length < 600 ? hex(b) : createHash('sha256').update(b).digest('hex')))
}

async function make(name, opts) {
  const store = new Corestore(path.join(dir, name), { primaryKey: Buffer.alloc(32, 3), unsafe: true })
  const drive = new Hyperdrive(opts.namespace ? store.namespace(opts.namespace) : store, opts)
  await drive.ready()
  await drive.put('/hello.txt', Buffer.from('hello world'))
  await drive.put('/empty', Buffer.alloc(0))
  await drive.put('/big.bin', Buffer.alloc(150000, 'pelure '))
  await drive.put('/run.sh', Buffer.from('#!/bin/sh\n'), { executable: true, metadata: { note: 'é "quoted"', n: [1, 2.5, null, true] } })
  await drive.symlink('/link', 'hello.txt')
  await drive.put('/ünïcode/日本 語.txt', Buffer.from('unicode'))
  await drive.del('/empty')
  const batch = drive.batch()
  await batch.put('/batch/a', Buffer.from('a'))
  await batch.put('/batch/b', Buffer.from('b'))
  await batch.del('/hello.txt')
  await batch.flush()
  const range = await drive.get('/big.bin', { start: 65530, end: 65540 })
  const out = {
    name, key: hex(drive.key), discoveryKey: hex(drive.discoveryKey), contentKey: hex(drive.contentKey), version: drive.version,
    encryptionKey: opts.encryptionKey ? hex(opts.encryptionKey) : null, namespace: opts.namespace || null,
    signature: hex(drive.core.core.state.signature), blobsSignature: hex(drive.blobs.core.core.state.signature),
    db: await blocks(drive.core), blobs: await blocks(drive.blobs.core), list: [], range: hex(range)
  }
  for await (const entry of drive.list('/')) out.list.push([entry.key, entry.seq, entry.value])
  await drive.close()
  return out
}

async function main() {
  const out = { origin: 'npm hyperdrive ' + require('hyperdrive/package.json').version, drives: [], paths: [] }
  out.drives.push(await make('plain', {}))
  out.drives.push(await make('namespace', { namespace: 'photos' }))
  out.drives.push(await make('encrypted', { encryptionKey: Buffer.alloc(32, 8) }))
  for (const p of ['a', '/a', 'a/b/', '//a//b', 'a/./b', 'a/../b', '/..', '../x', '', '/', '.', 'C:\\x\\y', 'c:/x', 'http://h/p/q', 'file:/x/y', 'a\\b', 'ä/ö', 'a b', ':x', 'a:/b']) {
    try {
      out.paths.push([p, Hyperdrive.normalizePath(p)])
    } catch (err) {
      out.paths.push([p, null])
    }
  }
  console.log(JSON.stringify(out, null, 1))
  fs.rmSync(dir, { recursive: true })
}

main()
