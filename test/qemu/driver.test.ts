// The QEMU driver against the conformance suite, with real guests of the image `tiny`.
import { driverConformance } from '../../src/drivers/driver.conformance.ts';
import { qemuSubject } from '../support/qemu-subject.ts';

driverConformance('the QEMU driver', qemuSubject);
