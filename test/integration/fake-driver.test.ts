// The fake driver against the conformance suites that need disk files, which it has merged by qemu-img.
import { devicesConformance } from '../../src/drivers/devices.conformance.ts';
import { fakeSubject } from '../../src/drivers/fake/fake-subject.ts';
import { snapshotsConformance } from '../../src/drivers/snapshots.conformance.ts';

snapshotsConformance('the fake driver', fakeSubject);
devicesConformance('the fake driver', fakeSubject);
