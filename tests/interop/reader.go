// A reader of our logs that shares no code with us: notes and trees are those of golang.org/x/mod, as Go's own
// checksum database uses them.
//
//	reader -vkey VKEY [-cosigned VKEY]... DIR [CHECKPOINT...]
//
// DIR holds `checkpoint` and `tile/...`, as a platform serves a log or as a bundle is unpacked. CHECKPOINT are signed
// checkpoints of the same log from other days. Every entry in DIR must be in the tree, and every smaller tree must be
// a beginning of the larger ones. Exit status: 0 everything holds, 1 something does not, 2 wrong use.
//
// What differs from the layout of Go's checksum database is mapped in one function, filePath. A bundle ships no tiles
// above level 0: those are computed from the ones below, as the format says.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	height     = 8
	tileWidth  = 1 << height
	cosignedAs = 4 // the key type of a C2SP co-signature
)

// filePath is the whole difference between the two layouts: Go names the height in front, C2SP the entries otherwise.
func filePath(tile tlog.Tile) string {
	path := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", height))
	return "tile/" + strings.Replace(path, "data/", "entries/", 1)
}

// folder is a tlog.TileReader over the files of a log.
type folder struct {
	root     string
	read     map[string][]byte
	computed int
}

func (f *folder) Height() int                             { return height }
func (f *folder) SaveTiles(tiles []tlog.Tile, _ [][]byte) {}

func (f *folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		data, err := f.readTile(tile)
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func (f *folder) readTile(tile tlog.Tile) ([]byte, error) {
	path := filePath(tile)
	if data, ok := f.read[path]; ok {
		return data, nil
	}
	data, err := os.ReadFile(filepath.Join(f.root, filepath.FromSlash(path)))
	if errors.Is(err, fs.ErrNotExist) && tile.L > 0 {
		data, err = f.compute(tile)
		f.computed++
	}
	if err != nil {
		return nil, err
	}
	if tile.L >= 0 && len(data) != tile.W*tlog.HashSize {
		return nil, fmt.Errorf("%s has %d bytes, not %d", path, len(data), tile.W*tlog.HashSize)
	}
	f.read[path] = data
	return data, nil
}

// compute makes a tile from the full ones below it. tlog checks it against the signed root like any other.
func (f *folder) compute(tile tlog.Tile) ([]byte, error) {
	var data []byte
	for i := 0; i < tile.W; i++ {
		below := tlog.Tile{H: height, L: tile.L - 1, N: tile.N*tileWidth + int64(i), W: tileWidth}
		hashes, err := f.readTile(below)
		if err != nil {
			return nil, err
		}
		for len(hashes) > tlog.HashSize {
			hashes = halved(hashes)
		}
		data = append(data, hashes...)
	}
	return data, nil
}

// halved returns the hashes one level up.
func halved(hashes []byte) []byte {
	var up []byte
	for ; len(hashes) > 0; hashes = hashes[2*tlog.HashSize:] {
		node := tlog.NodeHash(*(*tlog.Hash)(hashes), *(*tlog.Hash)(hashes[tlog.HashSize:]))
		up = append(up, node[:]...)
	}
	return up
}

// entries returns the entries of a tile: each stands behind its length, two bytes, most significant first.
func (f *folder) entries(tile tlog.Tile) ([][]byte, error) {
	data, err := f.readTile(tile)
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for len(data) > 0 {
		if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
			return nil, fmt.Errorf("%s is cut", filePath(tile))
		}
		end := 2 + int(binary.BigEndian.Uint16(data))
		all = append(all, data[2:end])
		data = data[end:]
	}
	if len(all) != tile.W {
		return nil, fmt.Errorf("%s has %d entries, not %d", filePath(tile), len(all), tile.W)
	}
	return all, nil
}

// proven remembers hashes that tlog has checked against the signed root: it checks whole tiles for each that is asked.
type proven struct {
	hashes tlog.HashReader
	known  map[int64]tlog.Hash
}

func (p *proven) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var unknown []int64
	for _, index := range indexes {
		if _, ok := p.known[index]; !ok {
			unknown = append(unknown, index)
		}
	}
	if len(unknown) > 0 {
		read, err := p.hashes.ReadHashes(unknown)
		if err != nil {
			return nil, err
		}
		for i, index := range unknown {
			p.known[index] = read[i]
		}
	}
	all := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		all[i] = p.known[index]
	}
	return all, nil
}

// below returns the indexes of all hashes of a tree over the entries from first to end, as far as they are complete.
func below(first, end int64) []int64 {
	var all []int64
	for level := 0; level < height; level++ {
		for n := first >> level; (n+1)<<level <= end; n++ {
			all = append(all, tlog.StoredHashIndex(level, n))
		}
	}
	return all
}

// witness verifies C2SP co-signatures: Ed25519 over a line of version, a line of time, and the checkpoint.
type witness struct {
	name   string
	hash   uint32
	public ed25519.PublicKey
}

func newWitness(vkey string) (*witness, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, errors.New("not a verifier key")
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 1+ed25519.PublicKeySize || key[0] != cosignedAs {
		return nil, errors.New("not the verifier key of a witness")
	}
	sum := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
	hash := binary.BigEndian.Uint32(sum[:])
	if fmt.Sprintf("%08x", hash) != parts[1] {
		return nil, errors.New("a verifier key with a wrong key id")
	}
	return &witness{parts[0], hash, key[1:]}, nil
}

func (w *witness) Name() string    { return w.name }
func (w *witness) KeyHash() uint32 { return w.hash }
func (w *witness) Verify(text, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	head := fmt.Sprintf("cosignature/v1\ntime %d\n", binary.BigEndian.Uint64(sig))
	return ed25519.Verify(w.public, append([]byte(head), text...), sig[8:])
}

// open checks the signatures of a checkpoint. Its three lines are read here: tlog.ParseTree wants Go's own origin.
func open(file string, verifiers note.Verifiers, origin string) (tlog.Tree, *note.Note, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return tlog.Tree{}, nil, err
	}
	opened, err := note.Open(data, verifiers)
	if err != nil {
		return tlog.Tree{}, nil, err
	}
	signed := false
	for _, sig := range opened.Sigs {
		signed = signed || sig.Name == origin
	}
	lines := strings.Split(opened.Text, "\n")
	if !signed || len(lines) != 4 || lines[0] != origin || lines[3] != "" {
		return tlog.Tree{}, nil, errors.New("not a checkpoint of this log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, nil, err
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, opened, err
}

func run(vkey string, cosigned []string, root string, others []string) error {
	log, err := note.NewVerifier(vkey)
	if err != nil {
		return fmt.Errorf("%s: %w", vkey, err)
	}
	known := []note.Verifier{log}
	for _, key := range cosigned {
		one, err := newWitness(key)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		known = append(known, one)
	}
	verifiers := note.VerifierList(known...)
	tree, opened, err := open(filepath.Join(root, "checkpoint"), verifiers, log.Name())
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if len(opened.Sigs) != len(known) {
		return fmt.Errorf("checkpoint: %d of %d signatures are there", len(opened.Sigs), len(known))
	}
	fmt.Printf("%s\n  signatures   %d hold: log and %d witnesses; %d lines of others passed over\n",
		log.Name(), len(opened.Sigs), len(opened.Sigs)-1, len(opened.UnverifiedSigs))
	fmt.Printf("  checkpoint   %d entries, root %s\n", tree.N, tree.Hash)

	files := &folder{root: root, read: map[string][]byte{}}
	hashes := tlog.TileHashReader(tree, files)
	whole, err := tlog.TreeHash(tree.N, hashes)
	if err != nil {
		return fmt.Errorf("tiles: %w", err)
	}
	if whole != tree.Hash {
		return fmt.Errorf("tiles: the root is %s", whole)
	}
	trees, err := earlier(tree, hashes, verifiers, log.Name(), others)
	if err != nil {
		return err
	}
	if err := included(tree, files, hashes); err != nil {
		return err
	}
	return consistent(tree, trees, hashes)
}

// included proves every entry that is there, one by one.
func included(tree tlog.Tree, files *folder, hashes tlog.HashReader) error {
	var there int64
	known := &proven{hashes, map[int64]tlog.Hash{}}
	for first := int64(0); first < tree.N; first += tileWidth {
		width := tree.N - first
		if width > tileWidth {
			width = tileWidth
		}
		tile := tlog.Tile{H: height, L: -1, N: first / tileWidth, W: int(width)}
		entries, err := files.entries(tile)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a bundle holds the entries of one interval
		}
		if err != nil {
			return err
		}
		if _, err := known.ReadHashes(below(first, first+width)); err != nil {
			return fmt.Errorf("entry %d: %w", first, err)
		}
		for i, entry := range entries {
			at := first + int64(i)
			proof, err := tlog.ProveRecord(tree.N, at, known)
			if err != nil {
				return fmt.Errorf("entry %d: %w", at, err)
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, at, tlog.RecordHash(entry)); err != nil {
				return fmt.Errorf("entry %d: %w", at, err)
			}
			there++
		}
		delete(files.read, filePath(tile))
	}
	if there == 0 {
		return errors.New("no entries are there")
	}
	fmt.Printf("  inclusion    %d entries are there, each is in the tree; %d tiles read, %d of them computed\n",
		there, len(files.read), files.computed)
	return nil
}

// earlier returns trees to compare with: those of other signed checkpoints, and those at the borders of tiles.
func earlier(tree tlog.Tree, hashes tlog.HashReader, verifiers note.Verifiers, origin string, others []string) (
	[]tlog.Tree, error) {
	var trees []tlog.Tree
	for _, file := range others {
		one, _, err := open(file, verifiers, origin)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
		if one.N < 1 || one.N > tree.N {
			return nil, fmt.Errorf("%s: %d entries", filepath.Base(file), one.N)
		}
		trees = append(trees, one)
	}
	for _, size := range []int64{1, 2, 3, 255, 256, 257, 65535, 65536, 65537, tree.N - 1} {
		if size < 1 || size >= tree.N {
			continue
		}
		hash, err := tlog.TreeHash(size, hashes)
		if err != nil {
			return nil, fmt.Errorf("the first %d entries: %w", size, err)
		}
		trees = append(trees, tlog.Tree{N: size, Hash: hash})
	}
	sort.Slice(trees, func(i, j int) bool { return trees[i].N < trees[j].N })
	fmt.Printf("  earlier      %d signed by the log, %d sizes more\n", len(others), len(trees)-len(others))
	return trees, nil
}

// consistent proves each tree to be a beginning of each larger one.
func consistent(tree tlog.Tree, trees []tlog.Tree, hashes tlog.HashReader) error {
	proofs := 0
	trees = append(trees, tree)
	for i, old := range trees {
		for _, larger := range trees[i+1:] {
			if larger.N == old.N {
				if larger.Hash != old.Hash {
					return fmt.Errorf("two trees of %d entries", old.N)
				}
				continue
			}
			proof, err := tlog.ProveTree(larger.N, old.N, hashes)
			if err != nil {
				return fmt.Errorf("from %d to %d entries: %w", old.N, larger.N, err)
			}
			if err := tlog.CheckTree(proof, larger.N, larger.Hash, old.N, old.Hash); err != nil {
				return fmt.Errorf("from %d to %d entries: %w", old.N, larger.N, err)
			}
			proofs++
		}
	}
	fmt.Printf("  consistency  %d proofs hold\n", proofs)
	return nil
}

type list []string

func (l *list) String() string         { return strings.Join(*l, " ") }
func (l *list) Set(value string) error { *l = append(*l, value); return nil }

func main() {
	var cosigned list
	vkey := flag.String("vkey", "", "verifier key of the log")
	flag.Var(&cosigned, "cosigned", "verifier key of a witness that must have co-signed")
	flag.Parse()
	if *vkey == "" || flag.NArg() < 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*vkey, cosigned, flag.Arg(0), flag.Args()[1:]); err != nil {
		fmt.Printf("  REFUSED      %s\n", bytes.ReplaceAll([]byte(err.Error()), []byte(flag.Arg(0)+string(filepath.Separator)), nil))
		os.Exit(1)
	}
}
