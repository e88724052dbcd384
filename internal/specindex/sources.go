package specindex

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// apis lists the folders of the specification that the page covers, in the order of the page.
var apis = []string{"client-server", "server-server", "application-service", "push-gateway"}

// OpenAPI returns the operations below specDir/api, ordered by API, file, path and method.
func OpenAPI(specDir string) ([]Operation, error) {
	var all []Operation
	for _, api := range apis {
		files, err := filepath.Glob(filepath.Join(specDir, "api", api, "*.yaml"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			ops, err := operationsOf(file)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			for i := range ops {
				ops[i].File = api + "/" + filepath.Base(file)
			}
			all = append(all, ops...)
		}
	}
	return all, nil
}

// document is the part of an OpenAPI file that this package reads.
type document struct {
	Servers []struct {
		Variables struct {
			BasePath struct {
				Default string `yaml:"default"`
			} `yaml:"basePath"`
		} `yaml:"variables"`
	} `yaml:"servers"`
	Paths map[string]map[string]yaml.Node `yaml:"paths"`
}

var methods = []string{"get", "put", "post", "delete", "options", "head", "patch"}

func operationsOf(file string) ([]Operation, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var d document
	if err := yaml.Unmarshal(raw, &d); err != nil {
		return nil, err
	}
	var ops []Operation
	for path, item := range d.Paths {
		for method, node := range item {
			if !slices.Contains(methods, method) {
				continue
			}
			var op struct {
				ID string `yaml:"operationId"`
			}
			if err := node.Decode(&op); err != nil {
				return nil, err
			}
			base := strings.TrimSuffix(d.Servers[0].Variables.BasePath.Default, "/")
			ops = append(ops, Operation{ID: op.ID, Method: strings.ToUpper(method), Path: base + strings.TrimSpace(path)})
		}
	}
	slices.SortFunc(ops, func(a, b Operation) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Method, b.Method))
	})
	return ops, nil
}

// Tests returns all test functions below root, as DIRECTORY.TestName.
func Tests(root string) (map[string]bool, error) {
	tests := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules" || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		return testsOf(root, path, tests)
	})
	return tests, err
}

func testsOf(root, path string, tests map[string]bool) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	dir, err := filepath.Rel(root, filepath.Dir(path))
	if err != nil {
		return err
	}
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
			tests[filepath.ToSlash(dir)+"."+f.Name.Name] = true
		}
	}
	return nil
}
