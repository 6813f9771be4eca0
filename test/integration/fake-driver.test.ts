// The fake driver against the conformance suites that need disk files, which it has merged by qemu-img.
import { fakeSubject } from '../../src/drivers/fake/fake-subject.ts';
import { snapshotsConformance } from '../../src/drivers/snapshots.conformance.ts';

snapshotsConformance('the fake driver', fakeSubject);
